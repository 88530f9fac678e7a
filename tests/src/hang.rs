// SPDX-License-Identifier: Apache-2.0
//! Makes a thread of another process run in circles for ever, as a bug would.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::unistd::Pid;

/// `jmp` to itself.
const LOOP: [u8; 2] = [0xeb, 0xfe];
/// The numbers of epoll_wait(2) and epoll_pwait(2).
const EPOLL: [&str; 2] = ["232", "281"];
/// How long the thread may take to sleep.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the thread with this name sleeps in its event loop, and puts an instruction that
/// leads to itself where it will wake up.
///
/// # Errors
/// When there is no such thread, or we may not do that to it.
pub fn run_in_circles(pid: Pid, thread: &str) -> Result<()> {
    let task = format!("/proc/{pid}/task/{}", find(pid, thread)?);
    let memory = fs::File::options()
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .context("its memory")?;
    let begun = Instant::now();
    loop {
        let call = fs::read_to_string(format!("{task}/syscall")).context("what it does")?;
        let words: Vec<&str> = call.split_whitespace().collect();
        let place = words.last().and_then(|word| word.strip_prefix("0x"));
        if let (Some(place), true) = (place, words.first().is_some_and(|n| EPOLL.contains(n))) {
            let place = u64::from_str_radix(place, 16)?;
            return memory.write_all_at(&LOOP, place).context("its code");
        }
        ensure!(begun.elapsed() < PATIENCE, "{thread} never sleeps: {call}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn find(pid: Pid, name: &str) -> Result<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("its threads")?;
    for task in tasks.flatten() {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            return Ok(task.file_name().to_string_lossy().into_owned());
        }
    }
    Err(anyhow!("process {pid} has no thread {name}"))
}
