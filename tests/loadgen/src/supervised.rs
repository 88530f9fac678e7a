// SPDX-License-Identifier: Apache-2.0
//! Our backends started as the supervisor starts them, without the jail around them: with their
//! descriptors and their record, replaced by another generation after a death.

mod disk;
mod input;
mod net;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use host::disk::DiskError;
use host::ring::RingError;
use host::tap::TapError;
use ipc::control::{Channel, ControlError};
use ipc::fd;
use ipc::health::{HealthError, HealthPage};
use ipc::memfd::MemfdError;
use ipc::record::{Record, RecordError};
use nix::fcntl::{FcntlArg, fcntl};
use seccompiler::BpfProgram;

pub use disk::{DiskSlot, Fence, Generation};
pub use input::{InputGeneration, InputSlot};
pub use net::{NetGeneration, NetSlot};

/// A backend cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SupervisedError {
    /// Its image.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Its in-flight region, or its control state.
    #[error(transparent)]
    Memfd(#[from] MemfdError),
    /// Its rings.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its health page.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Its socket or its process.
    #[error("cannot start the backend")]
    Start(#[from] io::Error),
}

/// A backend process, and what each has.
#[derive(Debug)]
struct Backend {
    child: Child,
    control: Channel,
    health: HealthPage,
}

/// Starts one with its record, its listener at that number, and the descriptors of its kind.
fn start(
    binary: &Path,
    record: &impl Record,
    (number, listener): (RawFd, &UnixListener),
    mut fds: Vec<(RawFd, OwnedFd)>,
    filter: Option<BpfProgram>,
) -> Result<Backend, SupervisedError> {
    let (control, theirs) = Channel::pair()?;
    let health = ipc::health::create()?;
    let page = HealthPage::map(&health)?;
    fds.push((fd::RECORD, record.write()?));
    fds.push((fd::CONTROL, theirs.into()));
    fds.push((fd::HEALTH, health));
    fds.push((number, listener.as_fd().try_clone_to_owned()?));
    Ok(Backend {
        child: spawn(binary, &fds, filter)?,
        control,
        health: page,
    })
}

/// Starts a process with these descriptors, at these numbers, and no others above the third, under a
/// filter if there is one.
#[allow(unsafe_code)]
fn spawn(binary: &Path, fds: &[(RawFd, OwnedFd)], filter: Option<BpfProgram>) -> io::Result<Child> {
    // First out of the way of each other's numbers.
    let moved: io::Result<Vec<(RawFd, RawFd)>> = fds
        .iter()
        .map(|(number, fd)| Ok((*number, fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(100))?)))
        .collect();
    let moved = moved?;
    let numbers = moved.clone();
    let mut command = Command::new(binary);
    command
        .arg("--launched")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let place = move || {
        for (number, fd) in &numbers {
            // SAFETY: no pointers; in the child, whose numbers below 100 are the table's.
            nix::errno::Errno::result(unsafe { libc::dup2(*fd, *number) })?;
        }
        if let Some(filter) = &filter {
            let failed = |_| io::Error::from(io::ErrorKind::PermissionDenied);
            seccompiler::apply_filter(filter).map_err(failed)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, on numbers it owns.
    unsafe { command.pre_exec(place) };
    let child = command.spawn();
    for (_, fd) in moved {
        // SAFETY: made above, used by the child only.
        unsafe { libc::close(fd.as_raw_fd()) };
    }
    child
}
