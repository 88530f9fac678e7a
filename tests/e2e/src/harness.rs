// SPDX-License-Identifier: Apache-2.0
//! A VM in which everything is real but the guest: `fake-vmm` takes the place of the vmm, so that
//! devices can be loaded, checked and have their backends replaced where no guest runs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use host::clock::monotonic_ns;
use loadgen::verify::check_image;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::exchange::{Exchange, Seen};
use crate::procs;
use crate::vm::PATIENCE;

pub mod gaps;
mod start;

pub use start::{DEVICES, Device, Setup};

/// The length of a block of the load.
const BLOCK_BYTES: u32 = 4096;

/// For so long a device is used after what a case is about.
const SERVICE: Duration = Duration::from_millis(500);

/// The VM.
#[derive(Debug)]
pub struct Harness {
    name: String,
    dir: PathBuf,
    image: PathBuf,
    runtime_dir: PathBuf,
    state: PathBuf,
    child: Child,
    /// With a NIC.
    exchange: Option<Exchange>,
    /// When the driver of a disk ends.
    until: Instant,
}

/// How a VM ended.
#[derive(Debug)]
pub struct Summary {
    /// Times without a completion: from and to, in ns of CLOCK_MONOTONIC.
    pub gaps: Vec<(u64, u64)>,
    /// Blocks of the image that were checked.
    pub checked: u64,
    /// Frames that were exchanged.
    pub frames: Seen,
}

impl Harness {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `bulkhead run` has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.pid().is_ok_and(procs::has_ended)
    }

    /// Waits for the end of `bulkhead run`.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(begun.elapsed() < patience, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the driver has said so far.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console")).unwrap_or_default()
    }

    /// Waits until its driver has said something.
    ///
    /// # Errors
    /// When it does not, or the VM ends without.
    pub fn wait_for(&self, marker: &str, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            // Asked first: nothing is said after the end.
            let ended = procs::has_ended(self.pid()?);
            if self.console().contains(marker) {
                return Ok(());
            }
            if ended || begun.elapsed() > patience {
                bail!("no {marker:?}, ended={ended}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process of `bulkhead run`.
    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `bulkhead` with these words, the VM's name behind the first.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn bulkhead(&self, verb: &str, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.dir.join("bulkhead"));
        command.env("XDG_RUNTIME_DIR", &self.runtime_dir);
        command
            .stdin(Stdio::null())
            .args([verb, &self.name])
            .args(words);
        Ok(command.output()?)
    }

    /// The same, which must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn bulkhead_ok(&self, verb: &str, words: &[&str]) -> Result<String> {
        let output = self.bulkhead(verb, words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "bulkhead {verb}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The VM as the API describes it.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn info(&self) -> Result<Value> {
        self.get("/v1/vm")
    }

    /// How many requests or packets each device has completed, and how many of them failed.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn completed(&self) -> Result<Vec<(u64, u64)>> {
        let stats = self.get("/v1/stats")?;
        let devices = stats["devices"].as_array().into_iter().flatten();
        let totals = devices.map(|device| {
            let total = |name: &str| device["total"][name].as_u64();
            Some((total("requests")?, total("errors")?))
        });
        totals.collect::<Option<_>>().context("no totals")
    }

    /// What has happened to it lately.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn events(&self) -> Result<Vec<Value>> {
        let events = self.get("/v1/vm/events")?;
        Ok(events["events"].as_array().cloned().unwrap_or_default())
    }

    /// A connection to the API.
    ///
    /// # Errors
    /// When there is none.
    pub fn api(&self) -> Result<UnixStream> {
        Ok(UnixStream::connect(self.state.join("api.sock"))?)
    }

    /// What `bulkhead run` said of the end of the VM.
    #[must_use]
    pub fn last_words(&self) -> String {
        let said = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let words = said
            .lines()
            .filter(|line| !line.starts_with("jailer: log:"));
        words.collect::<Vec<_>>().join("; ")
    }

    /// The VM's log, as long as it lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.state.join("log")).unwrap_or_default()
    }

    fn get(&self, target: &str) -> Result<Value> {
        let mut stream = self.api()?;
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(serde_json::from_str(body)?)
    }

    /// How often something has happened.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn count(&self, kind: &str) -> Result<u32> {
        let events = self.events()?;
        let count = events.iter().filter(|event| event["kind"] == kind).count();
        Ok(u32::try_from(count)?)
    }

    /// The process of the first device's backend, if one serves it.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn process(&self) -> Result<Option<Pid>> {
        let info = self.info()?;
        let device = &info["devices"][0];
        let mut processes = info["processes"].as_array().into_iter().flatten();
        let backend = processes.find(|process| process["role"] == device["role"]);
        let pid = backend.and_then(|process| process["pid"].as_i64());
        let pid = pid.map(i32::try_from).transpose()?;
        let serves = device["state"] == "serving";
        // 0 is shown until its number on the host is known, and means all of us to kill(2).
        Ok(pid.filter(|pid| serves && *pid > 0).map(Pid::from_raw))
    }

    /// The same, as soon as there is one.
    ///
    /// # Errors
    /// When there is none for long.
    pub fn backend(&self) -> Result<Pid> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(pid) = self.process()? {
                return Ok(pid);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("the device is not served")
    }

    /// The process of the backend that follows this one.
    ///
    /// # Errors
    /// When there is none for long.
    pub fn backend_after(&self, old: Pid) -> Result<Pid> {
        let begun = Instant::now();
        loop {
            let pid = self.backend()?;
            if pid != old {
                return Ok(pid);
            }
            ensure!(begun.elapsed() < PATIENCE, "{old} still serves the device");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends its backend a signal; which process it was, and when.
    ///
    /// # Errors
    /// When it is not there.
    pub fn signal(&self, signal: Signal) -> Result<(Pid, u64)> {
        let pid = self.backend()?;
        let now_ns = monotonic_ns();
        kill(pid, signal)?;
        Ok((pid, now_ns))
    }

    /// Has the driver of a disk end sooner than it would.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn press_power_button(&mut self) -> Result<()> {
        self.bulkhead_ok("stop", &[])?;
        self.until = Instant::now();
        Ok(())
    }

    /// Has the driver go on for a moment and end, and checks all that was written; with a NIC, ends the exchange.
    ///
    /// # Errors
    /// When a request failed, or a block does not hold what it must, or no frame came back.
    pub fn finish(mut self) -> Result<Summary> {
        match self.exchange.take() {
            Some(exchange) => {
                let (frames, gaps) = exchange.finish()?;
                println!("{frames:?}");
                self.stop()?;
                Ok(Summary {
                    gaps,
                    frames,
                    checked: 0,
                })
            }
            None => {
                std::thread::sleep(SERVICE);
                if Instant::now() < self.until {
                    // It may have ended just now.
                    let _ = self.press_power_button();
                }
                self.check()
            }
        }
    }

    fn check(&mut self) -> Result<Summary> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.wait_for("DRIVER done", left + PATIENCE)?;
        let status = self.child.wait()?;
        let console = self.console();
        let done = console.lines().find(|line| line.starts_with("DRIVER done"));
        let done = done.unwrap_or_default();
        println!("{done}");
        let clean = done.ends_with("errors=0 mismatches=0");
        ensure!(status.success() && clean, "{status}: {done}");
        let console = self.dir.join("console");
        let (checked, mismatches) = check_image(&console, &self.image, BLOCK_BYTES)?;
        ensure!(mismatches.is_empty(), "the image: {:?}", mismatches.first());
        ensure!(checked > 0, "nothing was written");
        Ok(Summary {
            gaps: self.gaps(),
            checked,
            frames: Seen::default(),
        })
    }

    /// Ends a VM whose driver would go on for ever.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.bulkhead_ok("stop", &["--force"])?;
        self.child.wait()?;
        Ok(())
    }

    /// The times without a completion of the disk so far.
    #[must_use]
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let text = self.console();
        let gap = |line: &str| {
            let (from, to) = line.strip_prefix("GAP from=")?.split_once(" to=")?;
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        text.lines().filter_map(gap).collect()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.bulkhead("stop", &["--force"]);
            let _ = self.child.wait();
        }
        let said = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        println!("--- bulkhead run of {} said\n{said}---", self.name);
    }
}
