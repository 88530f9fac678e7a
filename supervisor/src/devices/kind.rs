// SPDX-License-Identifier: Apache-2.0
//! What is particular about a kind of device: what its backends are started with, and what has to
//! end after the death of one before the next may start. All the rest is in [`super::slot`].

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};

use handover::host_resources::Log;
use host::ring::RingError;
use ipc::broker::Question;
use ipc::control::ControlError;
use ipc::health::HealthError;
use ipc::record::Geometry;
use ipc::record::RecordError;
use ipc::seccomp::Mode;
use spec::SpecError;
use spec::api::DeviceKind;

use super::BeginError;
use super::backend::{Backend, ChildResources};
use crate::child::StartError;
use crate::jailer_link::{AskError, JailerLink};
use crate::jails::Jails;

/// A backend could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// There is no program for this kind of device.
    #[error("there is no program for it")]
    Program,
    /// The image could not be opened once more.
    #[error("cannot open the image again")]
    Reopen(#[source] AskError),
    /// The image is no disk any more.
    #[error("{0}")]
    Image(String),
    /// Nothing has been opened for it.
    #[error("the image is not open")]
    Unopened,
    /// There is no ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// There is no launch record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// There is no control socket.
    #[error("cannot make a control socket")]
    Control(#[from] ControlError),
    /// There is no health page.
    #[error("cannot make a health page")]
    Health(#[from] HealthError),
    /// It could not be connected to the vmm, or its descriptors not prepared.
    #[error("cannot connect it to the vmm")]
    Connect(#[from] nix::Error),
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate a file descriptor")]
    Duplicate(#[from] std::io::Error),
    /// There is no process.
    #[error("cannot start it")]
    Start(#[from] StartError),
}

/// What the backends of all devices are started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpawnContext<'a> {
    /// The VM's name.
    pub(crate) vm_id: &'a str,
    /// The program that serves disks, if there are any.
    pub(crate) blk: Option<BorrowedFd<'a>>,
    /// The program that serves network cards, if there are any.
    pub(crate) net: Option<BorrowedFd<'a>>,
    /// /dev/null.
    pub(crate) null: BorrowedFd<'a>,
    /// Where everybody logs to.
    pub(crate) log: &'a Log,
    /// Where they live.
    pub(crate) jails: &'a Jails,
    /// Who opens what we cannot.
    pub(crate) jailer: &'a JailerLink,
    /// What a system call outside the filters does.
    pub(crate) seccomp: Mode,
}

/// How one backend is started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SpawnOptions<'a> {
    /// Its program, if it is not that of all devices of its kind.
    pub(crate) program: Option<BorrowedFd<'a>>,
    /// The one before died of itself.
    pub(crate) after_crash: bool,
    /// It is not the VM's first: its flushes wait until it is known whether writes were lost.
    pub(crate) awaits_sync: bool,
    /// It is to take over from one that lives: what it serves is looked at anew. The vmm finds it
    /// unfit if the guest would notice a change.
    pub(crate) anew: bool,
}

/// An opening of an image for one backend, which will be its last user.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: OwnedFd,
    /// The byte that it has marked.
    pub(crate) mark: i64,
    /// What the image is now, or why it is no disk any more.
    pub(crate) geometry: Result<Geometry, String>,
}

/// A backend that can be started.
#[derive(Debug)]
pub(crate) struct PreparedBackend {
    /// What it is started with.
    pub(crate) resources: ChildResources,
    /// What will tell, once it is dead, that nothing it began can happen any more.
    pub(crate) pending_io: Box<dyn PendingIo>,
}

/// The program of a backend: its own, or that of all devices of its kind.
pub(crate) fn program(
    how: SpawnOptions<'_>,
    usual: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, BackendError> {
    let program = how.program.or(usual).ok_or(BackendError::Program)?;
    Ok(program.try_clone_to_owned()?)
}

/// One device, as far as its kind matters.
pub(crate) trait Kind: Debug {
    /// Its name.
    fn id(&self) -> &str;

    /// What its backend is called in `inspect`: `blk disk0`.
    fn role(&self) -> String;

    /// The part of the spec that is at fault if no backend of it can live: what is wrong with it.
    fn fault(&self, reason: String) -> SpecError;

    /// For a fresh vmm: whatever the guest before had in progress is forgotten. What backends share
    /// with the vmm beside guest memory, if there is something.
    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError>;

    /// What kind it is, for the API.
    fn kind(&self) -> DeviceKind;

    /// Of a network card: plugs its cable in, or pulls it. Whether it is one.
    fn set_link(&mut self, _up: bool) -> bool {
        false
    }

    /// Of a network card: whether its link is up.
    fn link_up(&self) -> Option<bool> {
        None
    }

    /// The number of its queues.
    fn queues(&self) -> u16;

    /// What has to be opened for each backend, of a disk.
    fn needs(&self) -> Option<Question> {
        None
    }

    /// What tells, of a disk that is written to, whether writes were lost.
    fn witness(&self) -> Option<Question> {
        None
    }

    /// What the first backend needs, which was opened before the VM began.
    fn first(&mut self) -> Option<Opened> {
        None
    }

    /// Does what there is to do for a backend before it is started, with what it needs; with it comes
    /// the vmm's end of its connection, on which the vmm can speak at once.
    fn prepare(
        &mut self,
        context: &SpawnContext<'_>,
        how: SpawnOptions<'_>,
        opened: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError>;

    /// Starts a backend.
    fn start(
        &self,
        context: &SpawnContext<'_>,
        resources: &ChildResources,
    ) -> Result<Backend, BackendError> {
        Backend::start(context, resources)
    }
}

/// What a dead backend leaves behind. Killing a process does not end what the kernel does for it.
pub(crate) trait PendingIo: Debug {
    /// Looks, without waiting, whether nothing of what it began can happen any more; `id` is the
    /// device's name, for the log. The jailer is asked what we must not wait for.
    fn is_quiesced(&mut self, id: &str, jailer: &JailerLink) -> bool;

    /// It takes long: whatever the backend could have written, to seem alive for ever, is not to be
    /// believed any more. What counts then may be slower to tell.
    fn distrust(&mut self) {}

    /// Of a backend that lives: whether the kernel has something to do for this queue of it, if that
    /// can be seen.
    fn is_busy(&self, _queue: u16) -> Option<bool> {
        None
    }
}

/// Of a backend that begins nothing that outlives it.
impl PendingIo for () {
    fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
        true
    }
}
