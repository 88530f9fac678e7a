// SPDX-License-Identifier: Apache-2.0
//! The processes of a VM, as `bulkhead inspect` lists them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;

use crate::context::{Context, state_root};
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

/// What the VM of this short name has noted, the oldest first.
///
/// # Errors
/// When its API does not say.
pub fn events(context: &Context, name: &str) -> Result<Vec<Value>> {
    events_of(context, &context.name_of(name))
}

/// What the VM with this full name has noted, the oldest first.
///
/// # Errors
/// When its API does not say.
pub fn events_of(context: &Context, vm: &str) -> Result<Vec<Value>> {
    let socket = state_root(context.dir()).join(vm).join("api.sock");
    let mut stream = UnixStream::connect(&socket).context("the API's socket")?;
    stream.write_all(b"GET /v1/vm/events HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n\r\n")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .context("the API's answer")?;
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text.split_once("\r\n\r\n").context("no body")?;
    let json: Value = serde_json::from_str(body)?;
    Ok(json["events"].as_array().cloned().unwrap_or_default())
}

/// How long the guest stood still each time that its vmm was replaced, in µs.
#[must_use]
pub fn vmm_pauses_us(events: &[Value]) -> Vec<u64> {
    let done = events
        .iter()
        .filter(|event| event["kind"] == "upgrade-done" && event["device"] == "vmm");
    let pauses = done.filter_map(|event| {
        let mut words = event["detail"].as_str()?.split(' ');
        words.find_map(|word| word.parse().ok())
    });
    pauses.collect()
}
