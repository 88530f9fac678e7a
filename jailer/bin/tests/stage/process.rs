// SPDX-License-Identifier: Apache-2.0
//! A program under test while it runs, and once it has ended. The tests of `bulkhead` use it, too.

use std::fs;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs; killed with the test.
pub(crate) struct Running(pub(crate) Child);

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Types on its standard input.
    pub(crate) fn type_in(&mut self, text: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn wait(mut self) -> Ended {
        let begun = Instant::now();
        let stdout = self.0.stdout.take().map(read_all).unwrap_or_default();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the program does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let stderr = self.0.stderr.take().map(read_all).unwrap_or_default();
        let status = self.0.wait().unwrap().code();
        Ended {
            status,
            stdout,
            stderr,
        }
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

impl Drop for Running {
    /// If the test fails, what the program said goes with it. Others may still hold the pipe, so that
    /// only what is there is read.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if let (true, Some(mut stderr)) = (std::thread::panicking(), self.0.stderr.take()) {
            let mut said = vec![0; 64 << 10];
            let _ = fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let len = stderr.read(&mut said).unwrap_or(0);
            eprintln!("it said: {}", String::from_utf8_lossy(&said[..len]));
        }
    }
}

impl Ended {
    /// This status, and one line on stderr that has all of `parts`; none if there are no parts.
    pub(crate) fn assert_told(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        let lines = self.stderr.lines().count();
        assert_eq!(lines, usize::from(!parts.is_empty()), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part}: {self:?}");
        }
    }
}

/// Tries until something is there.
pub(crate) fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The directory of what is kept of ended VMs, and how many short records it may hold.
const ENDED: &str = ".ended";
const ENDED_MAX: usize = 64;
const ENDED_MAX_BYTES: usize = 4096;

/// What VMs have left in the directory of their state directories, other than how they ended: few
/// short records.
pub(crate) fn left_in(base: &Path) -> Vec<String> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let others = entries(base).filter(|entry| entry.file_name() != ENDED);
    let mut left: Vec<_> = others.map(|entry| name(&entry)).collect();
    for (count, entry) in entries(&base.join(ENDED)).enumerate() {
        let text = fs::read(entry.path()).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let is_record = record["reason"].is_string() && record["boot"] == host::clock::boot_id();
        if !is_record || text.len() > ENDED_MAX_BYTES || count >= ENDED_MAX {
            left.push(format!("{ENDED}/{}", name(&entry)));
        }
    }
    left
}

/// Whether a process is there and no zombie.
pub(crate) fn is_alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some(None | Some('Z' | 'X')))
}
