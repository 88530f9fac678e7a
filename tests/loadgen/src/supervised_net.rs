// SPDX-License-Identifier: Apache-2.0
//! Our network backend started as the supervisor starts it, without the jail around it: born with
//! its descriptors and its record, replaced by another generation while the tap stays open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Child;

use host::tap::{self, TapError};
use ipc::control::{Channel, ControlError};
use ipc::fd::{self, net};
use ipc::health::{HealthError, HealthPage};
use ipc::memfd::{Backing, MemfdError, shared};
use ipc::record::{Guard, NetRecord, Record as _, RecordError, VERSION};
use ipc::seccomp::Mode;

use crate::supervised::spawn;

/// A backend cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SupervisedNetError {
    /// Its tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Its control state.
    #[error(transparent)]
    Memfd(#[from] MemfdError),
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

/// A NIC whose backends come and go.
#[derive(Debug)]
pub struct NetSlot {
    binary: PathBuf,
    record: NetRecord,
    taps: Vec<OwnedFd>,
    state: OwnedFd,
    listener: UnixListener,
}

impl NetSlot {
    /// A NIC on a tap, with a MAC address and all guards, served at a socket.
    pub fn new(
        binary: &Path,
        tap: &str,
        pairs: u16,
        mac: [u8; 6],
        socket: &Path,
    ) -> Result<Self, SupervisedNetError> {
        let taps = tap::open(tap, pairs)?;
        let record = NetRecord {
            version: VERSION,
            vm_id: "loadgen".into(),
            device_id: "net0".into(),
            pairs,
            queue_size: 256,
            mac,
            mtu: None,
            uso: taps.first().is_some_and(|tap| tap::has_uso(tap.as_fd())),
            link_up: true,
            guard: Guard::default(),
            poll_us: 50,
            seccomp: Mode::Kill,
        };
        Ok(Self {
            binary: binary.into(),
            record,
            taps,
            state: shared("control-state", net::STATE_BYTES as u64, Backing::Shmem)?,
            listener: UnixListener::bind(socket)?,
        })
    }

    /// The queues of the tap.
    pub fn taps(&self) -> &[OwnedFd] {
        &self.taps
    }

    /// The control state.
    pub fn state(&self) -> &OwnedFd {
        &self.state
    }

    /// Starts a generation of the backend.
    pub fn start(&self) -> Result<NetGeneration, SupervisedNetError> {
        let (control, theirs) = Channel::pair()?;
        let health = ipc::health::create()?;
        let page = HealthPage::map(&health)?;
        let mut fds = vec![
            (fd::RECORD, self.record.write()?),
            (fd::CONTROL, theirs.into()),
            (fd::HEALTH, health),
            (net::LISTENER, self.listener.as_fd().try_clone_to_owned()?),
            (net::STATE, self.state.try_clone()?),
        ];
        for (number, tap) in (net::TAP..).zip(&self.taps) {
            fds.push((number, tap.try_clone()?));
        }
        Ok(NetGeneration {
            child: spawn(&self.binary, &fds, None)?,
            control,
            health: page,
        })
    }
}

/// A backend process.
#[derive(Debug)]
pub struct NetGeneration {
    child: Child,
    /// The supervisor's end of its control socket.
    pub control: Channel,
    /// Its health page.
    pub health: HealthPage,
}

impl NetGeneration {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, and waits for its end. Nothing of it happens after that: what it does to the tap
    /// is done when the call returns.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for NetGeneration {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
