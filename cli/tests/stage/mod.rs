// SPDX-License-Identifier: Apache-2.0
//! `bulkhead` with a real jailer and a fake vmm, on a stage of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

#[path = "../../../jailer/bin/tests/stage/process.rs"]
mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use process::{Ended, Running, eventually, is_alive};

pub(crate) struct Stage {
    bin: TempDir,
    pub(crate) dir: TempDir,
}

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

    /// The VM, while it runs.
    pub(crate) fn inspect(&self) -> Option<Value> {
        let ended = self.do_it(&["inspect", "vm", "--json"]);
        let runs = ended.status == Some(0);
        runs.then(|| serde_json::from_str(&ended.stdout).unwrap())
    }

    /// Waits until the VM is in a state.
    pub(crate) fn reach(&self, state: &str) -> Value {
        eventually(|| self.inspect().filter(|info| info["state"] == state))
    }

    /// Nothing of any VM is left.
    pub(crate) fn assert_clean(&self) {
        let left = process::left_in(&self.at("s"));
        assert!(left.is_empty(), "{left:?} is left");
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
