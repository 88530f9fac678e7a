// SPDX-License-Identifier: Apache-2.0
//! A jailer with a fake vmm, on a stage of its own.

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

mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use process::{Ended, PATIENCE, eventually, is_alive};

pub(crate) struct Stage {
    bin: TempDir,
    pub(crate) dir: TempDir,
}

/// A jailer that runs; killed with the test.
pub(crate) struct Running {
    process: process::Running,
    state: PathBuf,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let jailer = Path::new(env!("CARGO_BIN_EXE_jailer"));
        let fake = jailer.with_file_name("examples").join("fake-vmm");
        assert!(fake.exists(), "cargo build -p jailer-bin --examples");
        // Beside each other, as they are shipped; a link, because a copy would be slow.
        let bin = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::hard_link(jailer, bin.path().join("jailer")).unwrap();
        fs::hard_link(fake, bin.path().join("vmm")).unwrap();
        let dir = TempDir::new().unwrap();
        for file in ["kernel", "initrd"] {
            fs::write(dir.path().join(file), format!("the {file} ")).unwrap();
        }
        Self { bin, dir }
    }

    pub(crate) fn at(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn vmm(&self) -> PathBuf {
        self.bin.path().join("vmm")
    }

    /// A spec whose fake vmm does what `script` says, changed by `change`.
    pub(crate) fn spec(&self, script: &str, change: &Value) -> PathBuf {
        let mut spec = json!({
            "name": "vm",
            "kernel": self.at("kernel"),
            "mem": "16M",
            "cmdline": script,
        });
        for (field, value) in change.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let path = self.at(&format!("{}.json", spec["name"].as_str().unwrap()));
        fs::write(&path, spec.to_string()).unwrap();
        path
    }

    pub(crate) fn command(&self, config: &Path) -> Command {
        let mut command = self.jailer();
        command.arg("--config").arg(config);
        command
    }

    pub(crate) fn sweep(&self) -> Ended {
        let child = self.jailer().args(["--sweep", "vm"]).spawn().unwrap();
        Running::of(child, self.at("s/vm")).wait()
    }

    fn jailer(&self) -> Command {
        let mut command = Command::new(self.bin.path().join("jailer"));
        command.arg("--state-dir").arg(self.at("s"));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start_with(&self, script: &str, change: &Value) -> Running {
        let config = self.spec(script, change);
        let name = config.file_stem().unwrap().to_owned();
        let child = self.command(&config).spawn().unwrap();
        let state = self.at("s").join(name);
        Running::of(child, state)
    }

    /// Starts the jailer after `prepare` has run in the new process, as the life before its exec.
    #[allow(unsafe_code)]
    pub(crate) fn start_after(
        &self,
        script: &str,
        prepare: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Running {
        let config = self.spec(script, &json!({}));
        let mut command = self.command(&config);
        // SAFETY: the callers' closures make system calls and do not allocate.
        unsafe { command.pre_exec(prepare) };
        Running::of(command.spawn().unwrap(), self.at("s/vm"))
    }

    pub(crate) fn start(&self, script: &str) -> Running {
        self.start_with(script, &json!({}))
    }

    pub(crate) fn run(&self, script: &str) -> Ended {
        self.start(script).wait()
    }

    /// Nothing of any VM is left.
    pub(crate) fn assert_clean(&self) {
        let left = process::left_in(&self.at("s"));
        assert!(left.is_empty(), "{left:?} is left");
    }
}

impl Running {
    pub(crate) fn of(child: Child, state: PathBuf) -> Self {
        let process = process::Running(child);
        Self { process, state }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn wait(self) -> Ended {
        self.process.wait()
    }

    /// Connects to one of its sockets, as soon as it is there.
    pub(crate) fn connect(&self, socket: &str) -> UnixStream {
        let stream = eventually(|| UnixStream::connect(self.state.join(socket)).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One API request; status and body.
    pub(crate) fn request(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let mut stream = self.connect("api.sock");
        let len = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) fn info(&self) -> Value {
        let (status, info) = self.request("GET", "/v1/vm", "");
        assert_eq!(status, 200);
        info
    }

    /// Waits until the VM is in a state.
    pub(crate) fn reach(&self, state: &str) {
        eventually(|| (self.info()["state"] == state).then_some(()));
    }

    /// Its log, as those write it who have it open.
    pub(crate) fn log(&self) -> fs::File {
        let path = self.state.join("log");
        let mut options = fs::File::options();
        eventually(|| options.read(true).append(true).open(&path).ok())
    }

    /// The vmm's number on the host, once it is known; before that 0 is shown.
    pub(crate) fn vmm_pid(&self) -> i64 {
        eventually(|| {
            let pid = self.info()["processes"][2]["pid"].as_i64().unwrap();
            (pid > 0).then_some(pid)
        })
    }
}

impl Drop for Stage {
    /// What was killed with a test that did not wait for it has left what only a sweep finds.
    fn drop(&mut self) {
        for vm in fs::read_dir(self.at("s")).into_iter().flatten().flatten() {
            let _ = self.jailer().arg("--sweep").arg(vm.file_name()).output();
        }
    }
}

/// What each of a process's descriptors leads to.
pub(crate) fn descriptors(pid: i64) -> BTreeMap<i32, String> {
    let listing = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let read = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).unwrap().display().to_string();
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        (number, target)
    };
    listing.map(|entry| read(entry.unwrap())).collect()
}
