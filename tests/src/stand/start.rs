// SPDX-License-Identifier: Apache-2.0
//! Starting a VM whose guest is a driver: of which programs, on which disk, for how long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Stand;
use crate::context::Context;
use crate::vm::PATIENCE;

/// The length of the image.
const IMAGE_BYTES: u64 = 64 << 20;

/// What a stand is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The directory with all programs.
    pub bin: &'a Path,
    /// For how long the driver loads the disk.
    pub seconds: u64,
    /// On how many blocks; the fewer, the sooner each is written again.
    pub blocks: u64,
    /// The disk, if there is one already.
    pub image: Option<&'a Path>,
    /// Further words for `bulkhead run`.
    pub more: &'a [String],
}

impl<'a> Setup<'a> {
    /// Our programs, on a disk of their own.
    #[must_use]
    pub fn new(context: &'a Context, seconds: u64) -> Self {
        Self {
            bin: context.bin(),
            seconds,
            blocks: 4096,
            image: None,
            more: &[],
        }
    }
}

impl Stand {
    /// Starts a VM that loads its disk for so many seconds; `disk` is what `--disk` says behind the
    /// path, such as `,queues=2`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(context: &Context, name: &str, seconds: u64, disk: &str) -> Result<Self> {
        Self::start_as(context, name, Setup::new(context, seconds), disk)
    }

    /// The same, of anything.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_as(context: &Context, name: &str, setup: Setup, disk: &str) -> Result<Self> {
        Self::run(context, name, setup, |image| {
            Ok(("--disk", format!("path={}{disk}", image.display())))
        })
    }

    /// The same, with any flag for the device, of the directory in which the image is.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(
        context: &Context,
        name: &str,
        seconds: u64,
        device: impl FnOnce(&Path) -> Result<(&'static str, String)>,
    ) -> Result<Self> {
        Self::run(context, name, Setup::new(context, seconds), |image| {
            device(image.parent().context("a file has a directory")?)
        })
    }

    fn run(
        context: &Context,
        name: &str,
        setup: Setup,
        device: impl FnOnce(&Path) -> Result<(&'static str, String)>,
    ) -> Result<Self> {
        let dir = context.dir().join(name);
        fs::create_dir(&dir)?;
        let image = match setup.image {
            Some(image) => image.to_owned(),
            None => make_image(&dir)?,
        };
        for (program, takes) in [
            ("bulkhead", "bulkhead"),
            ("jailer", "jailer"),
            ("blk-backend", "blk-backend"),
            ("net-backend", "net-backend"),
            ("vmm-standin", "vmm"),
        ] {
            fs::copy(setup.bin.join(program), dir.join(takes)).context(program)?;
        }
        fs::write(dir.join("kernel"), b"none")?;
        let name = context.name_of(name);
        let mut command = Command::new(dir.join("bulkhead"));
        context.prepare(&mut command);
        command.args(["run", "--name", &name, "--mem", "64M", "--kernel"]);
        command.arg(dir.join("kernel"));
        command
            .arg("--cmdline")
            .arg(format!("seconds={} blocks={}", setup.seconds, setup.blocks));
        let (flag, value) = device(&image)?;
        command.arg(flag).arg(value).args(setup.more);
        command
            .arg("--console")
            .arg(format!("file={}", dir.join("console").display()));
        let log = fs::File::create(dir.join("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start bulkhead")?;
        let stand = Self {
            state: crate::context::state_root(context.dir()).join(&name),
            runtime_dir: context.dir().to_owned(),
            name,
            dir,
            image,
            child,
            until: Instant::now() + Duration::from_secs(setup.seconds),
        };
        stand.wait_for("STANDIN ready", PATIENCE)?;
        Ok(stand)
    }
}

fn make_image(dir: &Path) -> Result<PathBuf> {
    let image = dir.join("image");
    fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
    Ok(image)
}
