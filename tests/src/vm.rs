// SPDX-License-Identifier: Apache-2.0
//! One VM under test: `bulkhead run` with its console on pipes.

use std::fmt;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::context::Context;
use crate::tiny_kernel::TinyKernel;
use crate::transcript::Transcript;

/// How long anything may take that no case is about.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A stock kernel in one of its two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// The series: `6.1` or `6.12`.
    pub series: &'static str,
    /// The file format.
    pub format: Format,
}

/// The file format of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the distribution ships it.
    BzImage,
    /// Unpacked, entered through PVH.
    Elf,
}

impl Stock {
    /// The newer kernel as its distribution ships it; for cases that are not about kernels.
    pub const DEFAULT: Self = Self {
        series: "6.12",
        format: Format::BzImage,
    };

    fn file(self) -> String {
        match self.format {
            Format::BzImage => format!("vmlinuz-{}", self.series),
            Format::Elf => format!("vmlinux-{}", self.series),
        }
    }
}

/// What to put on the guest's kernel command line: the initrd's init reads `guest.do=`.
#[derive(Debug, Clone, Copy)]
pub struct GuestDoes(
    /// The word behind `guest.do=`.
    pub &'static str,
);

impl fmt::Display for GuestDoes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "console=ttyS0 quiet panic=1 guest.do={}", self.0)
    }
}

/// A VM before it is started.
#[derive(Debug)]
pub struct VmBuilder<'a> {
    context: &'a Context,
    name: String,
    args: Vec<String>,
    mem: Option<String>,
    console: bool,
    fault: Option<anyhow::Error>,
}

impl<'a> VmBuilder<'a> {
    pub(crate) fn new(context: &'a Context, name: String) -> Self {
        Self {
            context,
            name,
            args: Vec::new(),
            mem: None,
            console: true,
            fault: None,
        }
    }

    /// Boots a stock kernel whose init does what `does` says.
    #[must_use]
    pub fn boots(mut self, kernel: Stock, does: &'static str) -> Self {
        let files = self.context.asset(&kernel.file()).and_then(|file| {
            Ok((
                file,
                self.context
                    .asset(&format!("initrd-{}.cpio", kernel.series))?,
            ))
        });
        match files {
            Ok((file, initrd)) => self
                .arg("--kernel", file.display())
                .arg("--initrd", initrd.display())
                .arg("--cmdline", GuestDoes(does)),
            Err(error) => {
                self.fault = Some(error);
                self
            }
        }
    }

    /// Boots a hand-made kernel.
    #[must_use]
    pub fn boots_tiny(mut self, kernel: &TinyKernel) -> Self {
        match self.context.tiny_kernel(kernel) {
            Ok(file) => self.arg("--kernel", file.display()).mem_mib(16),
            Err(error) => {
                self.fault = Some(error);
                self
            }
        }
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        self.arg("--cpus", cpus)
    }

    /// The memory, in MiB.
    #[must_use]
    pub fn mem_mib(mut self, mem_mib: u64) -> Self {
        self.mem = Some(format!("{mem_mib}M"));
        self
    }

    /// Any flag of `bulkhead run` with a value.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: impl fmt::Display) -> Self {
        self.args.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Any flag of `bulkhead run` without one.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Leads the console to `to` instead of standard input and output.
    #[must_use]
    pub fn console(mut self, to: &str) -> Self {
        self.console = false;
        self.arg("--console", to)
    }

    /// `bulkhead run` for this VM.
    ///
    /// # Errors
    /// When something that the builder was given is not there.
    pub fn command(mut self) -> Result<Command> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut command = self.context.bulkhead();
        command.args(["run", "--name", &self.name]).args(&self.args);
        if let Some(mem) = &self.mem {
            command.args(["--mem", mem]);
        }
        if self.console {
            command.args(["--console", "stdio"]);
        }
        Ok(command)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When `bulkhead` cannot be started, or something that the builder was given is not there.
    pub fn start(self) -> Result<Vm> {
        let name = self.name.clone();
        let mut command = self.command()?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().context("cannot start bulkhead")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let stdin = child.stdin.take();
        let (console, log) = (Transcript::of(stdout), Transcript::of(stderr));
        Ok(Vm {
            name,
            child,
            stdin,
            console,
            log,
            seen: 0,
            started,
            hushed: false,
        })
    }
}

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
}

impl Vm {
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
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.hushed {
            return;
        }
        println!("--- console of {}\n{}", self.name, self.console.text());
        println!("--- bulkhead run said\n{}---", self.log.text());
    }
}
