// SPDX-License-Identifier: Apache-2.0
//! The processor time that another process takes.

use std::time::Duration;

/// The processor time of all living threads of a process so far.
pub fn of_process(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = tasks.into_iter().flatten().flatten();
    let ns = threads.filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(ns.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_time_grows_with_work() {
        let before = of_process(std::process::id());
        let mut number = 1_u64;
        while of_process(std::process::id()) == before {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(of_process(std::process::id()) > before);
    }
}
