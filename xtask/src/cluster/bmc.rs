// SPDX-License-Identifier: Apache-2.0
//! The hosts' baseboard controllers, simulated by OpenIPMI, on a network of their own. A controller is none of
//! its host's processes: it lives on when the host has lost its power.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use super::host::{BRIDGE, Host};
use crate::command::{command, quiet};

const POWER: &str = include_str!("../../assets/cluster-bmc.sh");
/// One controller at the address that all IPMI has.
const COMMANDS: &str =
    "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n";
/// IPMI's, on UDP.
const PORT: u16 = 623;
/// Whom docs/cluster.md has fence its hosts.
const USER: &str = "fence";
/// The password that its script says.
const PASSWORD: &str = "secret";

/// A controller; its end is the simulator's.
#[derive(Debug)]
pub(super) struct Controller(Child);

impl Controller {
    /// Starts that of a host, at the address that docs/cluster.md gives it.
    pub(super) fn start(case: &Path, host: &Host) -> Result<Self> {
        let name = &host.name;
        let dir = case.join("bmc").join(name);
        fs::create_dir_all(&dir)?;
        let power = case.join("bmc/power.sh");
        fs::write(&power, POWER)?;
        let address = format!("10.30.0.{}", host.number());
        let switch = format!(
            "sh {} {name} {}",
            power.display(),
            case.join("fence").display()
        );
        fs::write(dir.join("lan.conf"), configuration(name, &address, &switch))?;
        fs::write(dir.join("commands"), COMMANDS)?;
        let address = format!("{address}/24");
        quiet(&mut command(
            "ip",
            ["address", "add", &address, "dev", BRIDGE],
        ))?;
        let mut simulator = command("ipmi_sim", ["-n", "-c"]);
        simulator.arg(dir.join("lan.conf"));
        simulator.arg("-f").arg(dir.join("commands"));
        simulator.arg("-s").arg(&dir);
        let started = simulator.stdout(Stdio::null()).spawn();
        Ok(Self(started.context("cannot run ipmi_sim")?))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configuration(name: &str, address: &str, switch: &str) -> String {
    format!(
        r#"name "{name}"
set_working_mc 0x20
startlan 1
  addr {address} {PORT}
  priv_limit admin
  guid a123456789abcdefa123456789abcdef
endlan
chassis_control "{switch}"
user 2 true "{USER}" "{PASSWORD}" admin 10 md5
"#
    )
}
