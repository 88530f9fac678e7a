// SPDX-License-Identifier: Apache-2.0
//! What the kernel's OOM killer did in a group, from the counters of versions 1 and 2.

use std::fs;
use std::path::Path;

use super::host::Version;
use super::{Cgroups, Group};

impl Cgroups {
    /// Whether the kernel has killed a process of the VM because the VM was at its limit of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let mut groups = self.accounting();
        groups.any(|group| hit_limit(&group.dir, group.hierarchy.version))
    }

    /// How many processes of the VM the kernel has killed for want of memory, at the VM's limit or not.
    pub(crate) fn oom_kills(&self) -> u64 {
        let groups = self.accounting();
        groups
            .map(|group| kills(&group.dir, group.hierarchy.version))
            .sum()
    }

    fn accounting(&self) -> impl Iterator<Item = &Group> {
        let accounts = |group: &&Group| group.hierarchy.controllers.contains(&"memory");
        self.groups.iter().filter(accounts)
    }
}

/// Whether the kernel has killed a process of this group because the group was at its own limit.
/// One that it killed because the host, or a group above, had no more does not count.
pub(super) fn hit_limit(dir: &Path, version: Version) -> bool {
    let counters = match version {
        Version::Two => [("memory.events", "oom"), ("memory.events", "oom_kill")],
        Version::One => [("memory.failcnt", ""), ("memory.oom_control", "oom_kill")],
    };
    counters
        .into_iter()
        .all(|(file, key)| counted(dir, file, key) > 0)
}

/// How many processes of this group the kernel has killed.
fn kills(dir: &Path, version: Version) -> u64 {
    let file = match version {
        Version::Two => "memory.events",
        Version::One => "memory.oom_control",
    };
    counted(dir, file, "oom_kill")
}

/// The counter `key` of a file; without a key, the file is the counter.
fn counted(dir: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let counts = text.lines().map(|line| match line.split_once(' ') {
        Some((name, count)) => (name, count),
        None => ("", line),
    });
    let mut counts = counts.filter(|(name, _)| *name == key);
    let count = counts.find_map(|(_, count)| count.trim().parse().ok());
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(version: Version, files: &[(&str, &str)]) -> bool {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(dir.path().join(file), text).unwrap();
        }
        hit_limit(dir.path(), version)
    }

    #[test]
    fn kill_at_the_limit_counts_and_one_by_the_host_does_not() {
        let events = |oom, kills| format!("low 7\nmax 9\noom {oom}\noom_kill {kills}\n");
        for (oom, kills, wanted) in [(1, 1, true), (0, 1, false), (1, 0, false)] {
            let events = events(oom, kills);
            let files = [("memory.events", events.as_str())];
            assert_eq!(hit(Version::Two, &files), wanted);
            let control = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            let count = format!("{oom}\n");
            let files = [
                ("memory.oom_control", control.as_str()),
                ("memory.failcnt", count.as_str()),
            ];
            assert_eq!(hit(Version::One, &files), wanted);
        }
    }

    #[test]
    fn processes_that_were_killed_are_counted_at_a_limit_or_not() {
        let dir = tempfile::tempdir().unwrap();
        for (file, version) in [
            ("memory.events", Version::Two),
            ("memory.oom_control", Version::One),
        ] {
            assert_eq!(kills(dir.path(), version), 0);
            fs::write(dir.path().join(file), "under_oom 0\noom_kill 3\n").unwrap();
            assert_eq!(kills(dir.path(), version), 3);
        }
    }

    #[test]
    fn group_that_counts_nothing_was_at_no_limit() {
        assert!(!hit(Version::Two, &[]));
        assert!(!hit(Version::One, &[("memory.failcnt", "x")]));
    }
}
