// SPDX-License-Identifier: Apache-2.0
//! What a case is given: where the binaries and guests are, and a directory of its own.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{Uid, getpid};
use tempfile::TempDir;

use crate::machine::Machine;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::VmBuilder;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory with `bulkhead` and everything it starts.
    pub bin: PathBuf,
    /// The directory with guest kernels and initrds, if there is one.
    pub assets: Option<PathBuf>,
    /// The directory with the same programs of another version, if there is one.
    pub previous: Option<PathBuf>,
    /// What chance begins with, if the user wants a run once more.
    pub seed: Option<u64>,
    /// What a VM is here.
    pub machine: Machine,
}

/// The surroundings of one case.
#[derive(Debug)]
pub struct Context {
    places: Places,
    dir: TempDir,
}

/// The case cannot be run here; an error that is not a failure.
#[derive(Debug)]
pub struct Skip(
    /// Why not.
    pub String,
);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skip {}

impl Context {
    /// New surroundings with an empty directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(places: Places) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("e2e-")
            .tempdir()
            .context("a scratch directory")?;
        Ok(Self { places, dir })
    }

    /// A VM to be started; `name` need only be unique in this case.
    #[must_use]
    pub fn vm(&self, name: &str) -> VmBuilder<'_> {
        VmBuilder::new(self, self.name_of(name))
    }

    /// The full name of this case's VM `name`.
    #[must_use]
    pub fn name_of(&self, name: &str) -> String {
        format!("{}{name}", name_prefix(getpid().as_raw()))
    }

    /// `bulkhead`, not started yet, with the environment of this case.
    #[must_use]
    pub fn bulkhead(&self) -> Command {
        let mut command = Command::new(self.program("bulkhead"));
        self.prepare(&mut command);
        command
    }

    /// Sets the environment in which a program of ours keeps to this case.
    pub fn prepare(&self, command: &mut Command) {
        command
            .env("XDG_RUNTIME_DIR", self.dir())
            .stdin(Stdio::null());
    }

    /// Runs `bulkhead` with `args` to its end.
    ///
    /// # Errors
    /// When it cannot be started; a failure of its own is in the output.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let output = self
            .bulkhead()
            .args(args)
            .output()
            .context("cannot run bulkhead")?;
        println!("$ bulkhead {}\n{}", args.join(" "), output.status);
        print!("{}", String::from_utf8_lossy(&output.stdout));
        print!("{}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    /// Runs `bulkhead` with `args` to its end and says nothing of it.
    ///
    /// # Errors
    /// When it cannot be started; a failure of its own is in the output.
    pub fn run_quietly(&self, args: &[&str]) -> Result<Output> {
        let output = self.bulkhead().args(args).output();
        output.context("cannot run bulkhead")
    }

    /// Runs `bulkhead` with `args`, which must succeed; returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn run_ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(
            output.status.success(),
            "bulkhead {}: {}",
            args.join(" "),
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One of our binaries.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.places.bin.join(name)
    }

    /// What a VM is here.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.places.machine
    }

    /// Where our binaries are.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.places.bin
    }

    /// Where those of another version are.
    ///
    /// # Errors
    /// [`Skip`] when there are none.
    pub fn previous(&self) -> Result<&Path> {
        let previous = self.places.previous.as_deref();
        Ok(
            previous
                .ok_or_else(|| Skip("no other version: --previous was not given".to_owned()))?,
        )
    }

    /// A guest kernel or initrd.
    ///
    /// # Errors
    /// [`Skip`] when there are none on this machine.
    pub fn asset(&self, name: &str) -> Result<PathBuf> {
        let assets = self.places.assets.as_ref();
        let assets = assets.ok_or_else(|| Skip("no guests: --assets was not given".to_owned()))?;
        Ok(assets.join(name))
    }

    /// What chance begins with in this case: what the user gave, or something else in each run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.places.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            // Short enough to be typed.
            now.map_or(0, |now| u64::from(now.subsec_nanos()) ^ now.as_secs() << 8) & 0xff_ffff
        })
    }

    /// This case's directory; it goes when the case ends.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in this case's directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.dir().join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A shell script in the case's directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name, format!("#!/bin/sh\nset -e\n{text}\n").as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// A file of `size_bytes` zeroes that takes no space.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sparse_file(&self, name: &str, size_bytes: u64) -> Result<PathBuf> {
        let path = self.dir().join(name);
        File::create(&path)
            .and_then(|file| file.set_len(size_bytes))
            .context("a sparse file")?;
        Ok(path)
    }

    /// A copy of the Debian root file system, for one guest to write to.
    ///
    /// # Errors
    /// [`Skip`] when there is none on this machine; when it cannot be copied.
    pub fn debian_root(&self, name: &str) -> Result<PathBuf> {
        let (image, copy) = (self.asset("debian.ext4")?, self.dir().join(name));
        let cloned = Command::new("cp")
            .arg("--reflink=always")
            .args([&image, &copy])
            .output()?;
        if !cloned.status.success() {
            let copied = Command::new("dd")
                .args(["bs=1M", "conv=sparse", "status=none"])
                .arg(format!("if={}", image.display()))
                .arg(format!("of={}", copy.display()))
                .status()?;
            ensure!(copied.success(), "{}: {copied}", image.display());
        }
        Ok(copy)
    }

    /// A hand-made kernel, as a file.
    ///
    /// # Errors
    /// When it cannot be written. [`Skip`] if there is no such kernel for this architecture.
    pub fn no_os_kernel(&self, kernel: &NoOsKernel) -> Result<PathBuf> {
        self.file("no-os-kernel", &no_os_image(kernel)?)
    }

    /// The state directory of this case's VM `name`.
    #[must_use]
    pub fn state_dir(&self, name: &str) -> PathBuf {
        state_root(self.dir()).join(self.name_of(name))
    }
}

/// A hand-made kernel.
///
/// # Errors
/// [`Skip`] if there is no such kernel for this architecture.
pub fn no_os_image(kernel: &NoOsKernel) -> Result<Vec<u8>> {
    match kernel.lacks() {
        Some(what) => Err(Skip(format!("{} has no {what}", std::env::consts::ARCH)).into()),
        None => Ok(kernel.to_image()),
    }
}

/// Skips the case when not root.
///
/// # Errors
/// [`Skip`] when not root.
pub fn need_root() -> Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    Err(Skip("only root can do this".to_owned()).into())
}

/// How the names of all VMs begin that the case in process `pid` starts.
#[must_use]
pub fn name_prefix(pid: i32) -> String {
    format!("e2e-{pid}-")
}

/// Where VMs keep their state, with `XDG_RUNTIME_DIR` at `runtime_dir`.
#[must_use]
pub fn state_root(runtime_dir: &Path) -> PathBuf {
    if Uid::effective().is_root() {
        PathBuf::from("/run/bulkhead")
    } else {
        runtime_dir.join("bulkhead")
    }
}
