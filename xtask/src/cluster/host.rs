// SPDX-License-Identifier: Apache-2.0
//! A host of the cluster: namespaces whose pid 1 is `xtask/assets/cluster-host.sh`, on a bridge.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::procs;
use nix::unistd::Pid;

use super::power::Power;
use super::vms::until;
use crate::command::{command, quiet};

/// The bridge, in the case's own network namespace.
pub(super) const BRIDGE: &str = "cluster";
/// How long namespaces take to be made.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host, on or off.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    number: usize,
    case: PathBuf,
    boots: u32,
    power: Arc<Power>,
    /// The process that made its namespaces.
    maker: Option<Child>,
}

impl Host {
    /// A host that is off.
    pub(super) fn new(number: usize, case: &Path, power: Arc<Power>) -> Self {
        Self {
            name: format!("host{number}"),
            number,
            case: case.to_owned(),
            boots: 0,
            power,
            maker: None,
        }
    }

    /// Turns it on; what it starts takes some seconds more.
    pub(super) fn boot(&mut self) -> Result<()> {
        self.power.off(&self.name);
        if let Some(mut before) = self.maker.take() {
            before.wait()?;
        }
        self.boots += 1;
        let mut make = command("unshare", ["--mount", "--pid", "--ipc", "--uts", "--net"]);
        make.args(["--cgroup", "--fork", "--kill-child", "--mount-proc"]);
        make.arg("sh").arg(self.case.join("host.sh"));
        make.args([&self.name, &self.number.to_string()])
            .arg(&self.case);
        let log = self.case.join("log").join(format!("{}.unshare", self.name));
        make.stderr(File::create(log)?);
        let maker = make.spawn().context("cannot run unshare")?;
        let parent = Pid::from_raw(i32::try_from(maker.id())?);
        self.maker = Some(maker);
        let mut init = None;
        until(PATIENCE, "a host's pid 1", || {
            init = procs::below(parent).first().map(|process| process.pid);
            Ok(init.is_some())
        })?;
        let init = init.context("no pid 1")?;
        self.power.is_on(&self.name, init);
        let port = self.port();
        let netns = init.to_string();
        let link = ["link", "add", &port, "type", "veth", "peer", "name", "eth0"];
        quiet(command("ip", link).args(["netns", &netns]))?;
        quiet(&mut command(
            "ip",
            ["link", "set", &port, "master", BRIDGE, "up"],
        ))
    }

    /// The last part of its addresses.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Its pid 1, if it is on.
    pub(super) fn init(&self) -> Option<Pid> {
        self.power.init(&self.name)
    }

    /// Pulls the plug.
    pub(super) fn lose_power(&self) {
        self.power.off(&self.name);
    }

    /// Pulls its network cable.
    pub(super) fn lose_network(&self) -> Result<()> {
        quiet(&mut command("ip", ["link", "set", &self.port(), "down"]))
    }

    /// A command on it, as an administrator gives it.
    pub(super) fn command(&self, line: &str) -> Result<Command> {
        let init = self
            .init()
            .with_context(|| format!("{} is off", self.name))?;
        let mut enter = command("nsenter", ["--target", &init.to_string(), "--all"]);
        enter.args([
            "env",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "sh",
            "-c",
            line,
        ]);
        enter.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(enter)
    }

    /// Runs a command on it.
    pub(super) fn output(&self, line: &str) -> Result<Output> {
        let output = self.command(line)?.output();
        output.with_context(|| format!("{}: cannot run {line}", self.name))
    }

    /// Runs a command that succeeds; what it said.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{}: {line}: {}\n{told}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(told)
    }

    /// Whether a VM runs on it, or is just being started or ended.
    pub(super) fn has(&self, vm: &str) -> bool {
        self.init().is_some_and(|init| {
            Path::new(&format!("/proc/{init}/root/run/bulkhead/{vm}/api.sock")).exists()
        })
    }

    /// Where its own images are.
    pub(super) fn local(&self) -> PathBuf {
        self.case.join("local").join(&self.name)
    }

    /// The end of its cable at the bridge.
    fn port(&self) -> String {
        format!("{}-{}", self.name, self.boots)
    }
}
