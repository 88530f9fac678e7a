// SPDX-License-Identifier: Apache-2.0
//! Starting a VM whose guest is a driver: of which programs, with which device, for how long.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Harness;
use crate::context::{Context, no_os_image};
use crate::exchange::Exchange;
use crate::exchange::wires::{Frames, MAC, TAP};
use crate::network::enter_empty;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::PATIENCE;

/// The length of the image.
const IMAGE_BYTES: u64 = 64 << 20;

/// A device, and what loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device<'a> {
    /// A disk that the driver writes to and reads; what `--disk` says behind the path, such as
    /// `,queues=2`.
    Disk(&'a str),
    /// A NIC on a tap, in a network of its own, whose driver sends back what comes. Bare
    /// frames are exchanged with it.
    Nic,
}

/// One of each kind, and what it is called in the names of cases.
pub const DEVICES: [(&str, Device); 3] = [
    ("uring", Device::Disk(",queues=2,engine=uring")),
    ("threads", Device::Disk(",queues=2,engine=threads")),
    ("nic", Device::Nic),
];

impl Device<'_> {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::Disk(_) => "disk0",
            Self::Nic => "net0",
        }
    }

    /// The program that serves it.
    #[must_use]
    pub fn program(&self) -> &'static str {
        match self {
            Self::Disk(_) => "blk-backend",
            Self::Nic => "net-backend",
        }
    }
}

/// What a harness is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The directory with all programs.
    pub bin: &'a Path,
    /// For how long the driver loads the disk.
    pub seconds: u64,
    /// On how many blocks; the fewer, the sooner each is written again.
    pub blocks: u64,
    /// The guest's memory, as `--mem` says it.
    pub mem: &'a str,
    /// The disk, if there is one already.
    pub image: Option<&'a Path>,
    /// Further words for `bulkhead run`.
    pub more: &'a [String],
    /// Further words for the driver.
    pub words: &'a str,
    /// A guest for the real vmm, instead of the fake vmm.
    pub guest: Option<&'a NoOsKernel>,
}

impl<'a> Setup<'a> {
    /// Our programs, on a disk of their own.
    #[must_use]
    pub fn new(context: &'a Context, seconds: u64) -> Self {
        Self {
            bin: context.bin(),
            seconds,
            blocks: 4096,
            mem: "64M",
            image: None,
            more: &[],
            words: "",
            guest: None,
        }
    }
}

impl Harness {
    /// Starts a VM whose device is loaded: a disk for so many seconds, a NIC until it has
    /// been enough.
    ///
    /// # Errors
    /// When it does not start; [`crate::context::Skip`] when it is a NIC, and we are not root.
    pub fn start(context: &Context, name: &str, seconds: u64, device: Device) -> Result<Self> {
        Self::start_as(context, name, Setup::new(context, seconds), device)
    }

    /// The same, of anything.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_as(context: &Context, name: &str, setup: Setup, device: Device) -> Result<Self> {
        match device {
            Device::Disk(options) => Self::run(context, name, setup, |image| {
                Ok(("--disk", format!("path={}{options}", image.display())))
            }),
            Device::Nic => {
                let mut harness = Self::start_nic(context, name, setup)?;
                harness.exchange = Some(Exchange::start(Frames::new()?));
                Ok(harness)
            }
        }
    }

    /// A VM with a NIC with which nothing is exchanged.
    ///
    /// # Errors
    /// When it does not start; [`crate::context::Skip`] when we are not root.
    pub fn start_nic(context: &Context, name: &str, setup: Setup) -> Result<Self> {
        enter_empty()?;
        Self::run(context, name, setup, |_| {
            Ok(("--net", format!("tap={TAP},mac={MAC}")))
        })
    }

    /// With any flag for the device, of the directory in which the image is.
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
        copy_programs(&setup, &dir)?;
        let kernel = setup.guest.map(no_os_image).transpose()?;
        fs::write(dir.join("kernel"), kernel.unwrap_or_else(|| b"none".into()))?;
        let name = context.name_of(name);
        let mut command = Command::new(dir.join("bulkhead"));
        context.prepare(&mut command);
        command.args(["run", "--name", &name, "--mem", setup.mem, "--kernel"]);
        command.arg(dir.join("kernel"));
        command.arg("--cmdline").arg(format!(
            "seconds={} blocks={} {}",
            setup.seconds, setup.blocks, setup.words
        ));
        let (flag, value) = device(&image)?;
        command.arg(flag).arg(value).args(setup.more);
        let console = match setup.guest {
            Some(_) => "pty".to_owned(),
            None => format!("file={}", dir.join("console").display()),
        };
        command.args(["--console", &console]);
        let log = fs::File::create(dir.join("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start bulkhead")?;
        let harness = Self {
            state: crate::context::state_root(context.dir()).join(&name),
            runtime_dir: context.dir().to_owned(),
            name,
            dir,
            image,
            child,
            exchange: None,
            until: Instant::now() + Duration::from_secs(setup.seconds),
        };
        if setup.guest.is_some() {
            harness.keep_console()?;
        }
        harness.wait_for("DRIVER ready", PATIENCE)?;
        Ok(harness)
    }
}

impl Harness {
    /// Writes down what a guest says at its pseudo-terminal.
    fn keep_console(&self) -> Result<()> {
        let mut pty = self.pty()?;
        let mut file = fs::File::create(self.dir.join("console"))?;
        std::thread::spawn(move || std::io::copy(&mut pty, &mut file));
        Ok(())
    }

    /// The pseudo-terminal of the guest's console.
    ///
    /// # Errors
    /// When there is none.
    pub fn pty(&self) -> Result<fs::File> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let info = self.info().unwrap_or_default();
            if let Some(pty) = info["pty"].as_str() {
                let mut options = fs::File::options();
                options.read(true).write(true).custom_flags(libc::O_NOCTTY);
                return Ok(options.open(pty)?);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} has no pseudo-terminal", self.name)
    }
}

fn make_image(dir: &Path) -> Result<PathBuf> {
    let image = dir.join("image");
    fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
    Ok(image)
}

/// Puts the programs of a version into a directory, each under the name that the jailer looks for.
fn copy_programs(setup: &Setup, dir: &Path) -> Result<()> {
    for (program, takes) in [
        ("bulkhead", "bulkhead"),
        ("jailer", "jailer"),
        ("blk-backend", "blk-backend"),
        ("net-backend", "net-backend"),
        ("input-backend", "input-backend"),
        (
            if setup.guest.is_some() {
                "vmm"
            } else {
                "fake-vmm"
            },
            "vmm",
        ),
    ] {
        let source = setup.bin.join(program);
        // A version from before power buttons has no program for them.
        if program == "input-backend" && !source.exists() {
            continue;
        }
        fs::copy(source, dir.join(takes)).context(program)?;
    }
    Ok(())
}
