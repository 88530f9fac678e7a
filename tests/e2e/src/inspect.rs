// SPDX-License-Identifier: Apache-2.0
//! The processes of a VM, as `bulkhead inspect` lists them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;

use crate::context::Context;
use crate::vm::PATIENCE;

/// One process.
#[derive(Debug)]
pub struct Process {
    /// What it is: `vmm`, or `net` and the id of the NIC it serves.
    pub role: String,
    /// Its id.
    pub pid: i32,
}

/// All processes of the VM with this full name.
///
/// # Errors
/// When `bulkhead inspect` fails or says something else.
pub fn processes(context: &Context, vm: &str) -> Result<Vec<Process>> {
    let text = quietly(context, &["inspect", vm, "--json"])?;
    let info: Value = serde_json::from_str(&text).context("inspect --json")?;
    let listed = info["processes"].as_array().context("no processes")?;
    listed
        .iter()
        .map(|process| {
            Ok(Process {
                role: process["role"].as_str().context("no role")?.to_owned(),
                pid: process["pid"]
                    .as_i64()
                    .and_then(|pid| pid.try_into().ok())
                    .context("no pid")?,
            })
        })
        .collect()
}

/// The process of this role.
///
/// # Errors
/// When there is none.
pub fn process(context: &Context, vm: &str, role: &str) -> Result<Pid> {
    let begun = Instant::now();
    loop {
        let all = processes(context, vm)?;
        let found = all.iter().find(|process| process.role == role);
        let found = found.with_context(|| format!("no process {role:?} among {all:?}"))?;
        // 0 until the jailer has told the supervisor.
        if found.pid > 0 {
            return Ok(Pid::from_raw(found.pid));
        }
        ensure!(begun.elapsed() < PATIENCE, "no number of {role:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `bulkhead`, which must succeed, and returns what it says.
///
/// # Errors
/// When it fails.
pub fn quietly(context: &Context, args: &[&str]) -> Result<String> {
    let output = context.bulkhead().args(args).output().context("bulkhead")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "bulkhead {}: {said}",
        args.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
