// SPDX-License-Identifier: Apache-2.0
//! What depends on the kind of a device: what its backends are started with, and what must have
//! ended after a backend's death before the next one may start. All the rest is in
//! [`super::managed`].

use std::ffi::CStr;
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use host::ring::RingError;
use ipc::broker::Question;
use ipc::record::{Geometry, RecordError};
use spec::SpecError;
use spec::api::DeviceKind;

use super::BeginError;
use super::fence::PendingIo;
use crate::child::ChildSpec;
use crate::jailer_link::AskError;
use crate::process::{ManagedProcess, SpawnContext, SpawnError};

/// A backend could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// There is no program for this kind of device.
    #[error("there is no program for it")]
    Program,
    /// The image could not be opened again.
    #[error("cannot open the image again")]
    Reopen(#[source] AskError),
    /// The image cannot be a disk any more.
    #[error("{0}")]
    Image(String),
    /// The image has not been opened for it.
    #[error("the image is not open")]
    Unopened,
    /// There is no io_uring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// There is no launch record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It could not be connected to the vmm, or a descriptor could not be prepared.
    #[error("cannot connect it to the vmm")]
    Connect(#[from] nix::Error),
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate a file descriptor")]
    Duplicate(#[from] std::io::Error),
    /// There is no process.
    #[error("cannot start it")]
    Start(#[from] SpawnError),
}

/// The argument of a backend of ours. The same program also runs standalone, and expects the
/// supervisor's descriptors only with this argument.
pub(crate) const SUPERVISED: &CStr = c"--launched";

/// How one backend is started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SpawnOptions<'a> {
    /// Its program, if it is not the default of its kind.
    pub(crate) program: Option<BorrowedFd<'a>>,
    /// The backend before it died by itself.
    pub(crate) after_crash: bool,
    /// It is not the VM's first: it holds flushes back until it knows whether writes were lost.
    pub(crate) awaits_sync: bool,
    /// It is to take over from a living backend, and the image is examined anew. The vmm rejects it
    /// if the guest would notice a change.
    pub(crate) anew: bool,
}

/// An opening of an image for one backend, which is its last user.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: OwnedFd,
    /// The byte that it has locked as its mark.
    pub(crate) mark: i64,
    /// The image's geometry now, or why it cannot be a disk any more.
    pub(crate) geometry: Result<Geometry, String>,
}

/// A backend that can be started.
#[derive(Debug)]
pub(crate) struct PreparedBackend {
    /// What it is started with.
    pub(crate) child: ChildSpec,
    /// Tells, once the backend is dead, that nothing it began can still happen.
    pub(crate) pending_io: Box<dyn PendingIo>,
}

/// The program of a backend: its own, or the default of its kind.
pub(crate) fn program(
    how: SpawnOptions<'_>,
    usual: Option<&OwnedFd>,
) -> Result<OwnedFd, BackendError> {
    let usual = usual.map(AsFd::as_fd);
    let program = how.program.or(usual).ok_or(BackendError::Program)?;
    Ok(program.try_clone_to_owned()?)
}

/// What depends on the kind of one device.
pub(crate) trait Kind: Debug {
    /// Its name.
    fn id(&self) -> &str;

    /// The role of its backend in `inspect`: `blk disk0`.
    fn role(&self) -> String;

    /// The error that names the part of the spec to blame if no backend can live.
    fn fault(&self, reason: String) -> SpecError;

    /// Forgets, for a new vmm, what the guest before had in progress. Returns what the backends
    /// share with the vmm beside guest memory, if anything.
    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError>;

    /// What the next vmm gets of what outlives a vmm that is replaced.
    fn keep(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        Ok(None)
    }

    /// What kind it is, for the API; `None` if it has no traffic to count.
    fn kind(&self) -> Option<DeviceKind>;

    /// Plugs a NIC's cable in, or pulls it; false if the device is no NIC.
    fn set_link(&mut self, _up: bool) -> bool {
        false
    }

    /// Whether the link is up, if the device is a NIC.
    fn link_up(&self) -> Option<bool> {
        None
    }

    /// Presses a power button; returns how often it has been pressed since the vmm's start. `None` if
    /// the device is no button.
    fn press(&mut self) -> Option<u32> {
        None
    }

    /// The number of its queues.
    fn queues(&self) -> u16;

    /// The question that opens what each backend needs, if the device is a disk.
    fn needs(&self) -> Option<Question> {
        None
    }

    /// The question whether writes were lost, if the device is a disk that is written to.
    fn witness(&self) -> Option<Question> {
        None
    }

    /// What the jailer has opened for the first backend.
    fn first(&mut self) -> Option<Opened> {
        None
    }

    /// Prepares a backend from what was opened for it. Also returns the vmm's end of the
    /// connection, on which the vmm can send at once.
    fn prepare(
        &mut self,
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        opened: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError>;

    /// Starts a backend's process.
    fn start(
        &self,
        context: &SpawnContext,
        child: &ChildSpec,
    ) -> Result<ManagedProcess, SpawnError> {
        ManagedProcess::start(context, child)
    }
}
