// SPDX-License-Identifier: Apache-2.0
//! One VM under test: `bulkhead run` with its console on pipes.

mod builder;
mod shell;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::transcript::Transcript;

pub use builder::{Format, GuestDoes, Stock, VmBuilder};

/// How long anything may take that no case is about.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Behind `guest.do=`: the Debian on the first disk, which says little before its login prompt.
pub const DEBIAN: &str = "root systemd.show_status=0 TERM=dumb net.ifnames=0";

/// A VM that was started.
#[derive(Debug)]
pub struct Vm {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    console: Transcript,
    log: Transcript,
    seen: usize,
    started: Instant,
    hushed: bool,
    /// Where the VM's log is while it runs.
    state: Option<PathBuf>,
}

impl Vm {
    /// Starts what `command` runs, with its console on standard input and output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: String, command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let stdin = child.stdin.take();
        Ok(Self {
            name,
            child,
            stdin,
            console: Transcript::of(stdout),
            log: Transcript::of(stderr),
            seen: 0,
            started,
            hushed: false,
            state: None,
        })
    }

    /// Its full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the guest's console said.
    #[must_use]
    pub fn console(&self) -> &Transcript {
        &self.console
    }

    /// What `bulkhead` itself said on standard error.
    #[must_use]
    pub fn log(&self) -> &Transcript {
        &self.log
    }

    /// Just before `bulkhead` was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Keeps its transcript to itself when it goes.
    pub fn hush(&mut self) {
        self.hushed = true;
    }

    /// Waits until the console says `marker`, after whatever was waited for before.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_for(&mut self, marker: &str, limit: Duration) -> Result<()> {
        self.seen = self.console.wait_for(marker, self.seen, limit)?;
        Ok(())
    }

    /// Waits for a line `GUEST name=value` and returns the value.
    ///
    /// # Errors
    /// When it does not come.
    pub fn guest_value(&mut self, name: &str) -> Result<String> {
        self.wait_for(&format!("GUEST {name}="), PATIENCE)?;
        self.line()
    }

    /// Waits for the end of the line behind what was waited for last, and returns the line.
    ///
    /// # Errors
    /// When it does not come.
    pub fn line(&mut self) -> Result<String> {
        let start = self.seen;
        self.wait_for("\n", PATIENCE)?;
        let text = self.console.text();
        Ok(text
            .get(start..self.seen)
            .unwrap_or_default()
            .trim()
            .to_owned())
    }

    /// Types a line into the guest's console.
    ///
    /// # Errors
    /// When the console is gone.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.type_text(&format!("{line}\n"))
    }

    /// Types into the guest's console.
    ///
    /// # Errors
    /// When the console is gone.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| anyhow!("the console is closed"))?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .context("typing")
    }

    /// Closes the console's input, as a script whose input ended does.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Sends `bulkhead` a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("kill")
    }

    /// Waits for the end of `bulkhead` and returns its exit status.
    ///
    /// # Errors
    /// When it does not end within `limit`, or a signal ended it.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.console.wait_for_end(Duration::from_secs(5));
                self.log.wait_for_end(Duration::from_secs(5));
                return status
                    .code()
                    .ok_or_else(|| anyhow!("bulkhead ended with {status}"));
            }
            if Instant::now() >= deadline {
                bail!(
                    "bulkhead still ran after {} s; {}",
                    limit.as_secs(),
                    self.console.tail()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end of `bulkhead`, which must be with this exit status.
    ///
    /// # Errors
    /// When it is another, or none in time.
    pub fn expect_exit(&mut self, expected: i32) -> Result<()> {
        let status = self.wait_exit(PATIENCE)?;
        let said = self.log.tail();
        ensure!(
            status == expected,
            "bulkhead exited {status}, not {expected}; it said:\n{said}"
        );
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let kept = self.state.as_ref().map(|dir| dir.join("log"));
        let kept = kept.and_then(|log| std::fs::read_to_string(log).ok());
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.hushed {
            return;
        }
        // Only a VM that did not end as it should has one; it says why the guest was reset.
        if let Some(log) = kept {
            println!("--- log of {}\n{log}", self.name);
        }
        println!("--- console of {}\n{}", self.name, self.console.text());
        println!("--- bulkhead run said\n{}---", self.log.text());
    }
}
