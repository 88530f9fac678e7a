// SPDX-License-Identifier: Apache-2.0
//! The VM itself: a jailer that is our child, and what it has said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use host::child::set_apart;
use host::pidfd;
use host::readiness::Ear;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use spec::{VmName, VmSpec};

use crate::ended;

/// Where the jailer is, seen from this program: beside it (a build), above it (a Debian package), or in
/// `bin` of the same prefix.
const PLACES: [&str; 3] = [".", "..", "../../../bin"];
/// How long a VM may take to end at once, before its jailer is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is told of what a jailer has said, in bytes.
const SAID_MAX_BYTES: usize = 16 << 10;

/// Why there is no VM.
#[derive(Debug, thiserror::Error)]
pub enum JailerError {
    /// There is no place for VMs.
    #[error("{0}")]
    Base(#[from] spec::SpecError),
    /// There is no jailer.
    #[error("cannot start {0:?}")]
    Start(PathBuf, #[source] io::Error),
    /// The host lacks something that every process has.
    #[error("cannot start a VM")]
    Io(#[from] io::Error),
    /// The jailer has refused the VM.
    #[error("{0}")]
    Refused(String),
}

impl From<nix::Error> for JailerError {
    fn from(errno: nix::Error) -> Self {
        Self::Io(errno.into())
    }
}

/// A VM that runs.
#[derive(Debug)]
pub struct Jailer {
    child: Child,
    pidfd: OwnedFd,
    /// What the jailer has written to its standard error.
    said: File,
    base: PathBuf,
    name: VmName,
}

impl Jailer {
    /// Starts a VM, and waits until its guest runs. The numbers in its document are those of `taps`.
    ///
    /// # Errors
    /// When it does not start: why, in the jailer's words.
    pub fn start(
        spec: &VmSpec,
        name: &VmName,
        taps: &BTreeMap<usize, Vec<OwnedFd>>,
        console: Option<&OwnedFd>,
    ) -> Result<Self, JailerError> {
        let base = base()?;
        let ear = Ear::new()?;
        let program = program();
        let mut command = Command::new(&program);
        let mut document = File::from(memfd_create(c"vm.json", MFdFlags::empty())?);
        document.write_all(&spec.to_json()?)?;
        let number = document.as_raw_fd();
        command
            .arg("--config")
            .arg(format!("/proc/self/fd/{number}"));
        let mut inherited = Vec::new();
        for fd in taps.values().flatten() {
            inherited.push(("--tap-fd", fd));
        }
        if let Some(console) = console {
            inherited.push(("--console-fd", console));
        }
        for (flag, fd) in &inherited {
            command.arg(flag).arg(fd.as_raw_fd().to_string());
        }
        command.env("NOTIFY_SOCKET", ear.address());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // A file and no pipe: a jailer outlives us by as long as it cleans up, and goes on to write.
        let said = File::from(memfd_create(c"said", MFdFlags::MFD_CLOEXEC)?);
        command.stderr(said.try_clone()?);
        set_apart(&mut command, true);
        for (_, fd) in &inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let spawned = command.spawn();
        for (_, fd) in &inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let child = spawned.map_err(|error| JailerError::Start(program, error))?;
        let pidfd = pidfd::open(Pid::from_raw(child.id().cast_signed()))?;
        let name = name.clone();
        let jailer = Self {
            child,
            pidfd,
            said,
            base,
            name,
        };
        jailer.until_ready(&ear)
    }

    fn until_ready(mut self, ear: &Ear) -> Result<Self, JailerError> {
        loop {
            let mut fds = [
                PollFd::new(ear.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if ear.hears_ready(self.child.id()) {
                return Ok(self);
            }
            if let Some(status) = self.child.try_wait()? {
                let said = self.clean_up(status);
                let reason = match said.trim() {
                    "" => format!("the jailer ended with {status}"),
                    said => said.replace('\n', "; "),
                };
                return Err(JailerError::Refused(reason));
            }
        }
    }

    /// The directory of the VM's sockets.
    pub fn dir(&self) -> PathBuf {
        self.base.join(self.name.as_str())
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The kernel's, which never come.
    pub fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if let Some(status) = status {
            self.clean_up(status);
        }
        Ok(status)
    }

    /// Ends the VM at once.
    pub fn end(mut self) {
        // The child is not reaped yet, so the id is still its own.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGHUP);
        let millis = u16::try_from(PATIENCE.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, millis) != Ok(1) {
            pidfd::kill(self.pidfd.as_fd());
        }
        if let Ok(status) = self.child.wait() {
            self.clean_up(status);
        }
    }

    /// Tells what the jailer has said and how the VM ended; has a VM swept whose jailer was killed. Returns
    /// what the jailer has said.
    fn clean_up(&mut self, status: ExitStatus) -> String {
        let mut said = vec![0; SAID_MAX_BYTES];
        let len = self.said.read_at(&mut said, 0).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..len]).into_owned();
        eprint!("{said}");
        if status.code().is_none() {
            let mut command = Command::new(program());
            command.arg("--sweep").arg(self.name.as_str());
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let _ = command.status();
        }
        if let Some(ended) = ended::take(&self.base, &self.name) {
            let (reason, detail) = (ended.reason, ended.detail);
            eprintln!("cloud-hypervisor: the VM has ended: {reason} {detail}");
        }
        said
    }
}

/// The directory of this user's VMs.
fn base() -> Result<PathBuf, spec::SpecError> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    spec::state::base(None, geteuid().is_root(), runtime_dir.as_deref())
}

/// The jailer's program.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let dir = own.parent().unwrap_or(Path::new("/"));
    let mut places = PLACES.iter().map(|place| dir.join(place).join("jailer"));
    let found = places.find(|path| path.is_file());
    found.unwrap_or_else(|| dir.join("jailer"))
}
