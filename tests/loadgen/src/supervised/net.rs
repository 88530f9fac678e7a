// SPDX-License-Identifier: Apache-2.0
//! Our network backend: replaced by another generation while the tap stays open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Child;

use host::tap;
use ipc::control::Channel;
use ipc::fd::net;
use ipc::health::HealthPage;
use ipc::log_format::LogFormat;
use ipc::mac::MacAddress;
use ipc::memfd::{Backing, shared};
use ipc::record::{Guard, NetRecord, VERSION};
use ipc::seccomp::Mode;

use super::{Backend, SupervisedError};

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
        mac: MacAddress,
        socket: &Path,
    ) -> Result<Self, SupervisedError> {
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
            log_format: LogFormat::Text,
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
    pub fn start(&self) -> Result<NetGeneration, SupervisedError> {
        let mut fds = vec![(net::STATE, self.state.try_clone()?)];
        for (number, tap) in (net::TAP..).zip(&self.taps) {
            fds.push((number, tap.try_clone()?));
        }
        let listener = (net::LISTENER, &self.listener);
        let Backend {
            child,
            control,
            health,
        } = super::start(&self.binary, &self.record, listener, fds, None)?;
        Ok(NetGeneration {
            child,
            control,
            health,
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
