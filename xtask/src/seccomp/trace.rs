// SPDX-License-Identifier: Apache-2.0
//! What strace wrote, line by line: which calls were made behind which filter.
//!
//! A filter is installed by a thread for itself or for its whole process; threads and processes are
//! followed through clone. What a process is shows in the name of its first thread.

use std::collections::{BTreeSet, HashMap, HashSet};

/// How strace has to be called for that, up to the file it writes to.
pub(super) const STRACE: &[&str] = &[
    "-f",
    "-qq",
    "-X",
    "raw",
    "-s",
    "0",
    "--decode-pids=comm,pidns",
    "-o",
];

/// First threads of these names are ours.
const PROCESSES: [&str; 5] = [
    "supervisor",
    "vmm",
    "blk-backend",
    "net-backend",
    "input-backend",
];
const CLONE_THREAD: u64 = 0x1_0000;
const TSYNC: u64 = 1;

/// A call: its name and its first arguments, as far as they are numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) args: Vec<Option<u64>>,
}

/// The calls of one process behind its filters, by the name of the thread that made them.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) calls: BTreeSet<(String, Call)>,
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Of each thread, its process.
    process_of: HashMap<u64, u64>,
    processes: HashMap<u64, Process>,
    /// Threads, and processes, behind a filter of their own.
    confined: HashSet<u64>,
    confined_processes: HashSet<u64>,
    /// Below a supervisor that has its filter.
    below: HashSet<u64>,
    /// The flags of a clone that has not returned.
    cloning: HashMap<u64, u64>,
    /// Whatever was called below a supervisor, which its filter had to allow.
    pub(super) inherited: BTreeSet<Call>,
}

impl Trace {
    pub(super) fn line(&mut self, line: &str) -> Option<()> {
        let (head, text) = line.split_once("> ")?;
        let (tid, comm) = head.split_once('<')?;
        let tid: u64 = tid.parse().ok()?;
        let text = text.trim_start();
        let pid = *self.process_of.entry(tid).or_insert(tid);
        if tid == pid && PROCESSES.contains(&comm) {
            self.processes.entry(pid).or_default().name = comm.into();
        }
        if let Some(rest) = text.strip_prefix("<... clone") {
            self.cloned(tid, rest);
            return None;
        }
        let (name, rest) = text.split_once('(')?;
        if name.starts_with("clone") {
            let flags = rest
                .split_once("flags=")
                .map_or(0, |(_, f)| number_at_start(f));
            self.cloning.insert(tid, flags);
            self.cloned(tid, rest);
        }
        let call = Call {
            name: name.into(),
            args: rest.split(", ").take(3).map(number).collect(),
        };
        let process = self.processes.entry(pid).or_default();
        if self.confined.contains(&tid) || self.confined_processes.contains(&pid) {
            process.calls.insert((comm.into(), call.clone()));
        }
        if self.below.contains(&pid) {
            self.inherited.insert(call.clone());
        }
        if name == "seccomp" {
            let flags = call.args.get(1).copied().flatten().unwrap_or(0);
            let is_supervisor = process.name == "supervisor";
            match flags & TSYNC {
                0 => self.confined.insert(tid),
                _ => self.confined_processes.insert(pid),
            };
            if is_supervisor {
                self.below.insert(pid);
            }
        }
        Some(())
    }

    /// A clone has returned, or will: `= 17625<name>` at the end of a line.
    fn cloned(&mut self, tid: u64, text: &str) -> Option<()> {
        let (_, returned) = text.rsplit_once(" = ")?;
        // In a pid namespace strace adds what the number is outside of it.
        let outside = returned
            .split_once("/* ")
            .map_or(returned, |(_, rest)| rest);
        let child = number_at_start(outside);
        let flags = self.cloning.remove(&tid)?;
        let pid = *self.process_of.get(&tid)?;
        if flags & CLONE_THREAD != 0 {
            self.process_of.insert(child, pid);
            // It may have been heard of before the call that made it returned.
            if let Some(early) = self.processes.remove(&child) {
                let process = self.processes.entry(pid).or_default();
                process.calls.extend(early.calls);
            }
        } else {
            self.process_of.insert(child, child);
            if self.below.contains(&pid) {
                self.below.insert(child);
            }
        }
        Some(())
    }

    /// The processes that were seen behind a filter of their own.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        let ours = |process: &&Process| PROCESSES.contains(&process.name.as_str());
        self.processes.values().filter(ours)
    }
}

/// An argument that is a number, decimal or not.
fn number(text: &str) -> Option<u64> {
    let text = text.split([')', ' ', '<']).next()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn number_at_start(text: &str) -> u64 {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    number(&text[..end.unwrap_or(text.len())]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str) -> Trace {
        let mut trace = Trace::default();
        for line in text.lines() {
            let _ = trace.line(line);
        }
        trace
    }

    #[test]
    fn calls_behind_a_filter_of_the_process_are_those_of_its_threads() {
        let trace = trace(
            "10<blk-backend> openat(-100, \"\"..., 0) = 3\n\
             10<blk-backend> clone3({flags=0x3d0f00, stack_size=0x9000} <unfinished ...>\n\
             11<blk-backend> read(3, 0x1, 8) = 8\n\
             10<blk-backend> <... clone3 resumed> => {parent_tid=[11<x>]}, 88) = 11<blk-backend>\n\
             10<blk-backend> seccomp(0x1, 0x1, {len=150, filter=0x5}) = 0\n\
             11<disk> preadv2(7, [{iov_base=\"\"..., iov_len=8}], 1, 0, 0) = 8\n",
        );
        let process = trace.processes().next().unwrap();
        let calls: Vec<_> = process.calls.iter().collect();
        assert_eq!(calls.len(), 1);
        let (comm, call) = calls[0];
        assert_eq!((comm.as_str(), call.name.as_str()), ("disk", "preadv2"));
        assert_eq!(call.args[0], Some(7));
    }

    #[test]
    fn calls_below_a_supervisor_are_the_needs_of_its_filter() {
        let trace = trace(
            "20<jailer> clone3({flags=0x7e020000} , 88) = 21<jailer>\n\
             21<supervisor> seccomp(0x1, 0, {len=532, filter=0x5}) = 0\n\
             21<supervisor> clone3({flags=0x7e020000}, 88) = 3 /* 22<supervisor> in strace's PID NS */\n\
             22<supervisor> setsid() = 1\n\
             22<vmm> seccomp(0x1, 0, {len=105, filter=0x5}) = 0\n\
             22<vmm> ioctl(12, 0xae80, 0) = 0\n",
        );
        assert!(trace.inherited.iter().any(|call| call.name == "setsid"));
        let vmm = trace.processes().find(|process| process.name == "vmm");
        let (_, call) = vmm.unwrap().calls.first().unwrap();
        assert_eq!(call.args, [Some(12), Some(0xae80), Some(0)]);
    }
}
