// SPDX-License-Identifier: Apache-2.0
//! What the kernel's OOM killer did in a group, from the counters of versions 1 and 2.

use std::fs;
use std::path::Path;

use super::host::Version;

/// Whether the kernel has killed a process of this group because the group was at its own limit.
/// One that it killed because the host, or a group above, had no more does not count.
pub(super) fn hit_limit(dir: &Path, version: Version) -> bool {
    let counters = match version {
        Version::Two => [("memory.events", "oom"), ("memory.events", "oom_kill")],
        Version::One => [("memory.failcnt", ""), ("memory.oom_control", "oom_kill")],
    };
    counters.into_iter().all(|(file, key)| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        is_counted(&text, key)
    })
}

/// Whether the counter `key` is more than 0; without a key, the file is the counter.
fn is_counted(text: &str, key: &str) -> bool {
    let counts = text.lines().map(|line| match line.split_once(' ') {
        Some((name, count)) => (name, count),
        None => ("", line),
    });
    let mut counts = counts.filter(|(name, _)| *name == key);
    counts.any(|(_, count)| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
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
    fn group_that_counts_nothing_was_at_no_limit() {
        assert!(!hit(Version::Two, &[]));
        assert!(!hit(Version::One, &[("memory.failcnt", "x")]));
    }
}
