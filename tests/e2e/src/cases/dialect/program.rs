// SPDX-License-Identifier: Apache-2.0
//! The program as a client starts it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;

use super::client::Client;
use crate::context::Context;
use crate::vm::PATIENCE;

/// `cloud-hypervisor`, not started yet.
pub(super) fn command(context: &Context) -> Command {
    let mut command = Command::new(context.program("cloud-hypervisor"));
    context.prepare(&mut command);
    command
}

/// The program while it runs.
pub(super) struct Program {
    child: Child,
    vm: String,
    state: PathBuf,
    socket: PathBuf,
    events: File,
    told: String,
    /// How many of the events were waited for.
    seen: usize,
}

impl Program {
    /// As libvirt does it: it binds the socket, listens for one, and opens the pipe when the program is
    /// on its way.
    pub(super) fn of_libvirt(context: &Context, name: &str) -> Result<Self> {
        let places = Places::new(context, name);
        let listener = UnixListener::bind(&places.socket)?;
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
        mkfifo(&places.events, Mode::S_IRWXU)?;
        let number = listener.as_raw_fd();
        let mut command = command(context);
        command.args(["--api-socket", &format!("fd={number}")]);
        places.start(command)
    }

    /// As others do it.
    pub(super) fn at_a_path(context: &Context, name: &str) -> Result<Self> {
        let places = Places::new(context, name);
        mkfifo(&places.events, Mode::S_IRWXU)?;
        let mut command = command(context);
        command.arg("--api-socket").arg(&places.socket);
        let program = places.start(command)?;
        let begun = Instant::now();
        while Client::connect(&program.socket).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "nothing listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(program)
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The name of its VM.
    pub(super) fn vm(&self) -> &str {
        &self.vm
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn connect(&self) -> Result<Client> {
        Client::connect(&self.socket)
    }

    pub(super) fn kill(&mut self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal)?;
        self.child.wait()?;
        Ok(())
    }

    /// What it has told so far: source and name of each event.
    pub(super) fn events(&mut self) -> Result<Vec<String>> {
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = self.events.read(&mut chunk) {
            self.told.push_str(std::str::from_utf8(&chunk[..len])?);
        }
        let events = serde_json::Deserializer::from_str(&self.told).into_iter::<Value>();
        let word = |event: &Value, key: &str| event[key].as_str().unwrap_or("?").to_owned();
        events
            .map(|event| {
                let event = event.context("no event")?;
                Ok(format!(
                    "{} {}",
                    word(&event, "source"),
                    word(&event, "event")
                ))
            })
            .collect()
    }

    /// Waits for an event behind the last one that was waited for.
    pub(super) fn wait_for_event(&mut self, wanted: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let events = self.events()?;
            let mut fresh = events.iter().skip(self.seen);
            if let Some(at) = fresh.position(|event| event == wanted) {
                self.seen += at + 1;
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "no {wanted:?} in {events:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// It exits with this status.
    pub(super) fn expect_end(&mut self, status: i32) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(ended) = self.child.try_wait()? {
                ensure!(ended.code() == Some(status), "it ended with {ended}");
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its VM has no state directory any more.
    pub(super) fn left_no_state(&self) -> Result<()> {
        ensure!(!self.state.exists(), "{} is left", self.state.display());
        Ok(())
    }

    /// Nor is there a record of its end.
    pub(super) fn left_nothing(&self) -> Result<()> {
        self.left_no_state()?;
        let ended = self.state.with_file_name(".ended").join(&self.vm);
        ensure!(!ended.exists(), "{} is left", ended.display());
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.kill(Signal::SIGTERM);
        }
    }
}

/// Where its socket and its pipe are.
struct Places {
    vm: String,
    state: PathBuf,
    socket: PathBuf,
    events: PathBuf,
}

impl Places {
    fn new(context: &Context, name: &str) -> Self {
        let vm = context.name_of(name);
        Self {
            state: context.state_dir(name),
            socket: context.dir().join(format!("{vm}-socket")),
            events: context.dir().join(format!("{vm}-events")),
            vm,
        }
    }

    fn start(self, mut command: Command) -> Result<Program> {
        command.arg("--event-monitor");
        command.arg(format!("path={}", self.events.display()));
        println!("$ {command:?}");
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start it")?;
        // Waits until it has opened its end.
        let events = File::open(&self.events)?;
        fcntl(&events, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Program {
            child,
            vm: self.vm,
            state: self.state,
            socket: self.socket,
            events,
            told: String::new(),
            seen: 0,
        })
    }
}
