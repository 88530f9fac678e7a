// SPDX-License-Identifier: Apache-2.0
//! What the host's `/proc` tells every user about a process: its processor time and memory, and
//! what confines it. The VM's own processes cannot read it: their jail has no `/proc`.

use std::fs;
use std::path::Path;

use serde::Serialize;
use spec::api::ProcessInfo;

/// A tick of `/proc`: USER_HZ, the same for every program on Linux.
const TICK_NS: u64 = 10_000_000;
/// How much a process's start time may differ from what the jailer says, in ns: the jailer reads
/// the clock before it starts the process, and ticks are coarse.
const SLACK_NS: u64 = 2_000_000_000;

/// What `/proc` tells about a process; nothing if it is hidden from us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Processor time in user and kernel mode, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ns: Option<u64>,
    /// Resident memory in bytes, with all shared memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes: Option<u64>,
    /// Resident memory in bytes, with its share of shared memory. Only if the kernel permits
    /// reading it: to root, in most cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pss_bytes: Option<u64>,
    /// What confines it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<Sandbox>,
}

/// What confines a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Sandbox {
    /// The user it runs as, on the host.
    pub(crate) uid: u32,
    /// Its first thread has a seccomp filter.
    pub(crate) seccomp: bool,
    /// It cannot gain privileges by executing a program.
    pub(crate) no_new_privs: bool,
    /// It has no capability.
    pub(crate) no_capabilities: bool,
    /// It is in a pid namespace of its own.
    pub(crate) pid_namespace: bool,
}

/// Reads `/proc` about a process that the VM reports.
pub(crate) fn usage(process: &ProcessInfo) -> Usage {
    usage_in(Path::new("/proc"), process)
}

fn usage_in(proc: &Path, process: &ProcessInfo) -> Usage {
    // A VM reports pid 0 if it does not know the process's number on the host.
    if process.pid <= 0 {
        return Usage::default();
    }
    let dir = proc.join(process.pid.to_string());
    let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
    let Some(stat) = read("stat").as_deref().and_then(Stat::parse) else {
        return Usage::default();
    };
    let uptime_ns = fs::read_to_string(proc.join("uptime"));
    let uptime_ns = uptime_ns.ok().as_deref().and_then(seconds_as_ns);
    if !began_as_told(&stat, process.spawned_ns, uptime_ns) {
        return Usage::default();
    }
    let status = read("status");
    let field = |text: &Option<String>, name| text.as_deref().and_then(|t| kib(t, name));
    Usage {
        cpu_ns: Some(stat.cpu_ns),
        rss_bytes: field(&status, "VmRSS:"),
        pss_bytes: field(&read("smaps_rollup"), "Pss:"),
        sandbox: status.as_deref().and_then(Sandbox::parse),
    }
}

/// Whether a process is the reported one, by its start time; another process may have its pid now.
/// The clock of `/proc` runs while the host is suspended, CLOCK_MONOTONIC does not: they differ by
/// at most their current difference.
fn began_as_told(stat: &Stat, spawned_ns: u64, uptime_ns: Option<u64>) -> bool {
    let now_ns = host::clock::monotonic_ns();
    let suspended_ns = uptime_ns.unwrap_or(u64::MAX).saturating_sub(now_ns);
    let earliest = spawned_ns.saturating_sub(SLACK_NS);
    let latest = spawned_ns
        .saturating_add(suspended_ns)
        .saturating_add(SLACK_NS);
    (earliest..=latest).contains(&stat.began_ns)
}

/// `/proc/PID/stat`.
struct Stat {
    cpu_ns: u64,
    began_ns: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The process name may contain anything, spaces and parentheses included.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in proc_pid_stat(5), where the state is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ns: field(14)?
                .saturating_add(field(15)?)
                .saturating_mul(TICK_NS),
            began_ns: field(22)?.saturating_mul(TICK_NS),
        })
    }
}

impl Sandbox {
    /// From `/proc/PID/status`.
    fn parse(status: &str) -> Option<Self> {
        let field = |name| Some(value(status, name)?.split_ascii_whitespace());
        let mut none = true;
        for name in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            none &= u64::from_str_radix(field(name)?.next()?, 16).ok()? == 0;
        }
        Some(Self {
            uid: field("Uid:")?.nth(1)?.parse().ok()?,
            seccomp: field("Seccomp:")?.next()? == "2",
            no_new_privs: field("NoNewPrivs:")?.next()? == "1",
            no_capabilities: none,
            pid_namespace: field("NSpid:")?.count() > 1,
        })
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let number = value(text, name)?.split_ascii_whitespace().next()?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// The first number of `/proc/uptime`: seconds with two decimals.
fn seconds_as_ns(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_once('.')?;
    let hundredths = rest.get(..2)?.parse::<u64>().ok()?;
    let seconds = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    seconds.checked_add(hundredths * 10_000_000)
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
