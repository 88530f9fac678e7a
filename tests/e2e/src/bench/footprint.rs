// SPDX-License-Identifier: Apache-2.0
//! What the VMM itself costs: the time to the first KVM_RUN, and memory besides the guest's.

use std::fs;

use anyhow::{Context as _, Result, anyhow};
use nix::unistd::Pid;
use serde_json::Value;

use super::median;
use crate::context::Context;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::PATIENCE;

const RUNS: usize = 20;

/// Medians of a kernel that says a word and waits.
pub(super) fn run(context: &Context) -> Result<String> {
    let mut times = Vec::new();
    let mut resident = Vec::new();
    for _ in 0..RUNS {
        let (time_ms, kib) = once(context)?;
        times.push(time_ms);
        resident.push(f64::from(u32::try_from(kib)?));
    }
    println!("exec to the first KVM_RUN, ms: {times:.2?}");
    println!("resident without guest memory, KiB: {resident:.0?}");
    let (time_ms, kib) = (median(times), median(resident));
    Ok(format!(
        "vmm_rss_kib={kib:.0} exec_to_first_kvm_run_ms={time_ms:.2}"
    ))
}

fn once(context: &Context) -> Result<(f64, u64)> {
    let kernel = NoOsKernel::new().say("hello\n").halt();
    let mut vm = context
        .vm("bench")
        .boots_no_os(&kernel)
        .mem_mib(256)
        .start()?;
    vm.hush();
    vm.wait_for("hello\n", PATIENCE)?;
    let output = context
        .bulkhead()
        .args(["inspect", vm.name(), "--json"])
        .output()?;
    let info: Value = serde_json::from_slice(&output.stdout).context("bulkhead inspect --json")?;
    let time_ms = first_run_ms(&info)?;
    let kib = resident_kib()?;
    let mut stop = context.bulkhead();
    stop.args(["stop", vm.name(), "--force"]).output()?;
    vm.wait_exit(PATIENCE)?;
    Ok((time_ms, kib))
}

/// From the vmm's start to its first vCPU entering the guest.
fn first_run_ms(info: &Value) -> Result<f64> {
    let processes = info["processes"]
        .as_array()
        .context("inspect lists no processes")?;
    let vmm = processes.iter().find(|process| process["role"] == "vmm");
    let vmm = vmm.context("inspect lists no vmm")?;
    let time = |name: &str| {
        vmm[name]
            .as_f64()
            .with_context(|| format!("inspect has no {name}"))
    };
    Ok((time("first_run_ns")? - time("spawned_ns")?) / 1e6)
}

/// Resident memory of the vmm below this process, without the mapping of guest memory.
pub(super) fn resident_kib() -> Result<u64> {
    let descendants = procs::living_descendants();
    let vmm = descendants.iter().find(|process| process.name == "vmm");
    let vmm = vmm.ok_or_else(|| anyhow!("no vmm in {descendants:?}"))?;
    resident_of(vmm.pid)
}

fn resident_of(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(sum_in(&smaps, "Rss:"))
}

/// Sums a field over all mappings but those of guest memory, the memfd whose name says so.
pub(super) fn sum_in(smaps: &str, field: &str) -> u64 {
    let mut guest_memory = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some(word) if word == field && !guest_memory => {
                sum += words
                    .next()
                    .and_then(|kib| kib.parse::<u64>().ok())
                    .unwrap_or(0);
            }
            Some(word) if !word.ends_with(':') => guest_memory = line.contains(GUEST_MEMORY),
            _ => {}
        }
    }
    sum
}

/// How the memfd of guest memory is named.
const GUEST_MEMORY: &str = "/memfd:guest";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0 \nRss: 12 kB\n\
                     7f02-7f03 rw-s 0 00:01 9 /memfd:guest-ram (deleted)\nRss: 4096 kB\n\
                     7f04-7f05 r-xp 0 00:00 7 /vmm\nRss: 8 kB\n";

        assert_eq!(sum_in(smaps, "Rss:"), 20);
    }
}
