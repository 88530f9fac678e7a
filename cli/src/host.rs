// SPDX-License-Identifier: Apache-2.0
//! What the host's `/proc` tells anybody about a process: its processor time and memory, and what
//! confines it. The VM's own processes cannot see it: there is no `/proc` where they live.

use std::fs;
use std::path::Path;

use serde::Serialize;
use spec::api::ProcessInfo;

/// Ticks of `/proc` in a second: USER_HZ, the same for every program on Linux.
const TICK_NS: u64 = 10_000_000;
/// How much earlier or later a process may have begun than the jailer says, in ns: it looks at the
/// clock first, and ticks are coarse.
const SLACK_NS: u64 = 2_000_000_000;

/// What can be seen of a process; nothing at all if it is hidden from us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Processor time in user and kernel mode, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ns: Option<u64>,
    /// Resident memory in bytes, with all of what it shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes: Option<u64>,
    /// Resident memory in bytes, with its part of what it shares. Only for those whom the kernel
    /// lets look: root, in most cases.
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
    /// It lives in a pid namespace of its own.
    pub(crate) pid_namespace: bool,
}

/// Looks at a process that the jailer has told of.
pub(crate) fn usage(process: &ProcessInfo) -> Usage {
    usage_in(Path::new("/proc"), process)
}

fn usage_in(proc: &Path, process: &ProcessInfo) -> Usage {
    // 0 is said of a process whose number on the host is not known.
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

/// The clock of `/proc` does not stop while the host is suspended, ours does: the two are apart by at
/// most what they are apart now. Of another process with the same number we say nothing.
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
        // The name may hold anything, blanks and parentheses included.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered from the state, which is field 3 in proc_pid_stat(5).
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
