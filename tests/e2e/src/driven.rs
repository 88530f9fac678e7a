// SPDX-License-Identifier: Apache-2.0
//! A VM that a guest of a few hundred bytes keeps busy: it drives two disks and verifies them
//! (`no_os_kernel/verifier.rs`), while the vmm is replaced under it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::unistd::Pid;

use crate::context::Context;
use crate::harness::{Device, Harness, Setup};
use crate::inspect::vmm_pauses_us;
use crate::no_os_kernel::{NoOsKernel, verifier};
use crate::vm::PATIENCE;

/// A VM whose guest drives two disks, until it is told to end.
#[derive(Debug)]
pub struct Driven {
    /// The VM.
    pub harness: Harness,
    images: [PathBuf; 2],
}

impl Driven {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(context: &Context, name: &str) -> Result<Self> {
        Self::start_with(context, name, "64M", &[])
    }

    /// The same, with so much memory and further words for `bulkhead run`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(context: &Context, name: &str, mem: &str, more: &[&str]) -> Result<Self> {
        let images = ["one", "two"].map(|image| context.dir().join(format!("{name}-{image}")));
        for image in &images {
            std::fs::File::create(image)?.set_len(16 << 20)?;
        }
        let guest = NoOsKernel::new().say("DRIVER ready\n").verify();
        let second = format!("path={}", images[1].display());
        let words = ["--disk", &second].into_iter().chain(more.iter().copied());
        let more: Vec<String> = words.map(str::to_owned).collect();
        let setup = Setup {
            image: Some(&images[0]),
            more: &more,
            mem,
            guest: Some(&guest),
            ..Setup::new(context, 0)
        };
        let harness = Harness::start_as(context, name, setup, Device::Disk(""))?;
        Ok(Self { harness, images })
    }

    /// The vmm's process.
    ///
    /// # Errors
    /// When there is none for long.
    pub fn vmm(&self) -> Result<Pid> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let info = self.harness.info()?;
            let processes = info["processes"].as_array().into_iter().flatten();
            let mut pids = processes
                .filter(|process| process["role"] == "vmm")
                .filter_map(|process| process["pid"].as_i64());
            // 0 is shown until its number on the host is known.
            if let Some(pid) = pids.next().filter(|pid| *pid > 0) {
                return Ok(Pid::from_raw(i32::try_from(pid)?));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("there is no vmm")
    }

    /// Requests completed by both disks, by the backends' own account.
    fn completed(&self) -> Result<u64> {
        let totals = self.harness.completed()?;
        ensure!(totals.iter().all(|(_, errors)| *errors == 0), "{totals:?}");
        Ok(totals.iter().map(|(requests, _)| requests).sum())
    }

    /// Waits until the guest has had more requests completed.
    ///
    /// # Errors
    /// When it stands still.
    pub fn goes_on(&self) -> Result<()> {
        let before = self.completed()?;
        let begun = Instant::now();
        while self.completed()? <= before + 100 {
            ensure!(begun.elapsed() < PATIENCE, "the guest stands still");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Replaces the vmm so many times; how long the guest stood still each time, in µs, by the supervisor's
    /// account.
    ///
    /// # Errors
    /// When one of them fails, or the guest stands still.
    pub fn replace(&self, times: u32) -> Result<Vec<u64>> {
        let mut pauses_us = Vec::new();
        for _ in 0..times {
            self.goes_on()?;
            let before = self.vmm()?;
            self.harness.bulkhead_ok("restart", &["vmm", "--wait"])?;
            ensure!(self.vmm()? != before, "it is the same process");
            pauses_us.extend(vmm_pauses_us(&self.harness.events()?).last().copied());
        }
        Ok(pauses_us)
    }

    /// Has the guest end, which says so if it ever found what it had not written.
    ///
    /// # Errors
    /// When it did, or an image holds a block that no write has left.
    pub fn finish(mut self) -> Result<()> {
        self.goes_on()?;
        self.harness.pty()?.write_all(b"Q")?;
        let status = self.harness.wait(PATIENCE)?;
        let console = self.harness.console();
        ensure!(!console.contains("FAULT"), "the guest says {console}");
        ensure!(status.success(), "{status}: {console}");
        let mut written = 0;
        for image in &self.images {
            for block in std::fs::read(image)?.chunks(verifier::BLOCK_BYTES) {
                ensure!(
                    verifier::is_whole(block),
                    "a block of {} is torn",
                    image.display()
                );
                written += usize::from(block.iter().any(|byte| *byte != 0));
            }
        }
        ensure!(written > 0, "nothing was written");
        Ok(())
    }
}
