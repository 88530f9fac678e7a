// SPDX-License-Identifier: Apache-2.0
//! Storage that takes its time: device-mapper targets on a disk in memory. It takes root, and a kernel
//! with the modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::context::{Skip, need_root};

/// Its size, in sectors.
const SECTORS: u32 = 64 << 11;

/// A disk in memory behind a device-mapper target; gone when it is dropped.
#[derive(Debug)]
pub struct Storage {
    name: String,
    path: PathBuf,
    delay_ms: u32,
}

/// The disk in memory itself.
pub const FAST: &str = "/dev/ram0";

impl Storage {
    /// Delays everything.
    ///
    /// # Errors
    /// As [`Storage::quick`].
    pub fn slow(name: &str, delay_ms: u32) -> Result<Self> {
        let delay = format!("{FAST} 0 {delay_ms}");
        let mut storage = Self::new(name, &format!("delay {delay} {delay}"))?;
        storage.delay_ms = delay_ms;
        Ok(storage)
    }

    /// Delays nothing, until it is suspended.
    ///
    /// # Errors
    /// When it cannot be made; [`Skip`] when the kernel lacks what it is made of.
    pub fn quick(name: &str) -> Result<Self> {
        Self::new(name, &format!("linear {FAST} 0"))
    }

    fn new(name: &str, target: &str) -> Result<Self> {
        need_root()?;
        let kib = format!("rd_size={}", SECTORS / 2);
        for module in [&["brd", "rd_nr=1", &kib][..], &["dm-mod"], &["dm-delay"]] {
            let loaded = Command::new("modprobe").args(module).status();
            if !loaded.is_ok_and(|status| status.success()) {
                return Err(Skip(format!("there is no module {}", module[0])).into());
            }
        }
        let name = format!("e2e-{}-{name}", std::process::id());
        let table = format!("0 {SECTORS} {target}");
        dmsetup(&["create", &name, "--table", &table])?;
        let mut storage = Self {
            name,
            path: PathBuf::new(),
            delay_ms: 0,
        };
        // Nobody makes the names below /dev/mapper here.
        let columns = ["info", "--columns", "--noheadings", "--options", "minor"];
        let minor = dmsetup(&[&columns[..], &[&storage.name]].concat())?;
        storage.path = PathBuf::from(format!("/dev/dm-{}", minor.trim()));
        Ok(storage)
    }

    /// The block device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// By how much everything is delayed.
    #[must_use]
    pub fn delay_ms(&self) -> u32 {
        self.delay_ms
    }

    /// Lets whatever is begun from now on wait.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn suspend(&self) -> Result<()> {
        dmsetup(&["suspend", "--noflush", "--nolockfs", &self.name]).map(drop)
    }

    /// Goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resume(&self) -> Result<()> {
        dmsetup(&["resume", &self.name]).map(drop)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = self.resume();
        let _ = dmsetup(&["remove", "--retry", &self.name]);
        let _ = Command::new("rmmod").arg("brd").status();
    }
}

fn dmsetup(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("dmsetup");
    // There may be no udev to wait for.
    command.arg("--noudevsync").args(arguments);
    let output = command.output().context("dmsetup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "dmsetup {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
