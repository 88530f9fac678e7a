// SPDX-License-Identifier: Apache-2.0
//! The processes below one of ours: find them, and end them all.
//!
//! A process that calls [`adopt_orphans`] stays the ancestor of everything it ever started, however
//! deep and however orphaned, so walking parent links in `/proc` finds all of it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};

/// One process, as `/proc/PID/stat` tells it.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// `Z` for one that has ended and waits for its parent.
    pub state: char,
}

impl Process {
    /// Whether it has ended already and only its exit status is left.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }
}

/// Makes this process the parent of every orphan below it.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn adopt_orphans() -> nix::Result<()> {
    prctl::set_child_subreaper(true)
}

/// Every process of this machine (of this pid namespace).
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

/// Every process below `ancestor`, nearest first.
#[must_use]
pub fn below(ancestor: Pid) -> Vec<Process> {
    let mut children: HashMap<Pid, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> = children.remove(&ancestor).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let pid = process.pid;
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Every living process below this one.
#[must_use]
pub fn living_descendants() -> Vec<Process> {
    let mut found = below(getpid());
    found.retain(|process| !process.is_zombie());
    found
}

/// Waits until nothing lives below this process, for at most `grace`; returns what still does.
#[must_use]
pub fn wait_for_none(grace: Duration) -> Vec<Process> {
    let deadline = Instant::now() + grace;
    loop {
        reap_orphans(&[]);
        let living = living_descendants();
        if living.is_empty() || Instant::now() >= deadline {
            return living;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends everything below this process: asks first, and after `grace` insists.
pub fn end_descendants(grace: Duration) {
    signal_descendants(Signal::SIGTERM);
    let mut left = wait_for_none(grace);
    for _ in 0..100 {
        if left.is_empty() {
            return;
        }
        signal_descendants(Signal::SIGKILL);
        left = wait_for_none(Duration::from_millis(50));
    }
}

/// Ends everything below this process at once.
pub fn kill_descendants() {
    end_with(Signal::SIGKILL);
}

fn end_with(signal: Signal) {
    for _ in 0..100 {
        signal_descendants(signal);
        if wait_for_none(Duration::from_millis(50)).is_empty() {
            return;
        }
    }
}

fn signal_descendants(signal: Signal) {
    for process in living_descendants() {
        // It may have ended since it was listed.
        let _ = kill(process.pid, signal);
    }
}

/// Collects every ended child but those in `keep`, whose status somebody else will ask for.
pub fn reap_orphans(keep: &[Pid]) {
    for process in below(getpid()) {
        if process.parent != getpid() || !process.is_zombie() || keep.contains(&process.pid) {
            continue;
        }
        let _ = waitpid(process.pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    }
}

/// Whether child `pid` has ended; its status stays to be collected.
#[must_use]
pub fn has_ended(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags) {
        Ok(WaitStatus::StillAlive) => false,
        Ok(_) | Err(Errno::ECHILD) => true,
        Err(_) => false,
    }
}

/// The memory of a process that is its own alone: neither files nor shared.
#[must_use]
pub fn anonymous_kib(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Where groups of this VM are.
#[must_use]
pub fn cgroups_of(name: &str) -> Vec<PathBuf> {
    fn look(dir: &Path, depth: u32, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(entry.path());
            } else if depth > 0 {
                look(&entry.path(), depth - 1, name, found);
            }
        }
    }
    let mut found = Vec::new();
    look(
        Path::new("/sys/fs/cgroup"),
        6,
        &format!("{name}-"),
        &mut found,
    );
    found
}

fn read(pid: i32) -> Option<Process> {
    parse(
        Pid::from_raw(pid),
        &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
    )
}

fn parse(pid: Pid, stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    Some(Process {
        pid,
        parent,
        name: name.to_owned(),
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_parentheses_in_the_name_is_read() {
        let process = parse(Pid::from_raw(7), "7 (a) b) S 3 7 7 0").unwrap();

        assert_eq!(process.name, "a) b");
        assert_eq!(process.parent, Pid::from_raw(3));
        assert!(!process.is_zombie());
    }

    #[test]
    fn own_process_is_listed() {
        assert!(all().iter().any(|process| process.pid == getpid()));
    }
}
