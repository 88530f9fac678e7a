// SPDX-License-Identifier: Apache-2.0
//! `bulkhead` with a real jailer and a fake vmm, on a stage of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    bin: TempDir,
    pub(crate) dir: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that runs; killed with the test.
pub(crate) struct Running(pub(crate) Child);

impl Stage {
    pub(crate) fn new() -> Self {
        let bulkhead = Path::new(env!("CARGO_BIN_EXE_bulkhead"));
        let built = |file: &str| {
            let path = bulkhead.with_file_name("").join(file);
            assert!(path.exists(), "cargo build -p jailer-bin --bins --examples");
            path
        };
        // Beside each other, as they are shipped; links, because copies would be slow.
        let bin = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for (from, to) in [
            (bulkhead.to_path_buf(), "bulkhead"),
            (built("jailer"), "jailer"),
            (built("examples/fake-vmm"), "vmm"),
        ] {
            fs::hard_link(from, bin.path().join(to)).unwrap();
        }
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("kernel"), "a kernel").unwrap();
        Self { bin, dir }
    }

    pub(crate) fn at(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// `bulkhead ARGS`, in a directory that holds a file named `kernel`.
    pub(crate) fn bulkhead(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.path().join("bulkhead"));
        command.args(args).current_dir(self.dir.path());
        command.arg("--state-dir").arg(self.at("s"));
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn do_it(&self, args: &[&str]) -> Ended {
        Running(self.bulkhead(args).spawn().unwrap()).wait()
    }

    /// A VM whose fake vmm does what `script` says.
    pub(crate) fn run(&self, script: &str, more: &[&str]) -> Command {
        let mut args = vec!["run", "--name=vm", "--kernel=kernel", "--mem=16M"];
        args.extend(["--cmdline", script]);
        args.extend(more);
        self.bulkhead(&args)
    }

    pub(crate) fn start(&self, script: &str, more: &[&str]) -> Running {
        Running(self.run(script, more).spawn().unwrap())
    }

    pub(crate) fn inspect(&self) -> Option<Value> {
        let ended = self.do_it(&["inspect", "vm", "--json"]);
        serde_json::from_str(&ended.stdout).ok()
    }

    /// Waits until the VM is in a state.
    pub(crate) fn reach(&self, state: &str) -> Value {
        eventually(|| self.inspect().filter(|info| info["state"] == state))
    }

    /// Nothing of any VM is left.
    pub(crate) fn assert_clean(&self) {
        let left = fs::read_dir(self.at("s")).into_iter().flatten();
        assert_eq!(left.count(), 0, "a state directory is left");
    }
}

impl Drop for Stage {
    /// VMs that were detached would outlive a test that failed.
    fn drop(&mut self) {
        for vm in fs::read_dir(self.at("s")).into_iter().flatten().flatten() {
            let name = vm.file_name().to_string_lossy().into_owned();
            let _ = self.bulkhead(&["stop", "--force", &name]).output();
        }
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn wait(mut self) -> Ended {
        let begun = Instant::now();
        let mut stdout = Vec::new();
        if let Some(mut pipe) = self.0.stdout.take() {
            pipe.read_to_end(&mut stdout).unwrap();
        }
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "bulkhead does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut stderr = String::new();
        if let Some(mut pipe) = self.0.stderr.take() {
            pipe.read_to_string(&mut stderr).unwrap();
        }
        Ended {
            status: self.0.wait().unwrap().code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr,
        }
    }

    /// Types on its standard input.
    pub(crate) fn type_in(&mut self, text: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // If the test fails, what it said goes with it. Others may still hold the pipe, so that only
        // what is there is read.
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
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and no zombie.
pub(crate) fn is_alive(pid: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some(None | Some('Z' | 'X')))
}
