// SPDX-License-Identifier: Apache-2.0
//! Our power button's backend: replaced by another generation while the state of deliveries stays.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ipc::control::ToBackend;
use ipc::fd::input;
use ipc::health::HealthPage;
use ipc::log_format::LogFormat;
use ipc::memfd::{Backing, shared};
use ipc::record::{InputRecord, VERSION};
use ipc::seccomp::Mode;

use super::{Backend, SupervisedError};

/// A button whose backends come and go.
#[derive(Debug)]
pub struct InputSlot {
    binary: PathBuf,
    state: OwnedFd,
    listener: UnixListener,
}

impl InputSlot {
    /// A button served at a socket.
    pub fn new(binary: &Path, socket: &Path) -> Result<Self, SupervisedError> {
        Ok(Self {
            binary: binary.into(),
            state: shared("input-state", input::STATE_BYTES as u64, Backing::Shmem)?,
            listener: UnixListener::bind(socket)?,
        })
    }

    /// The state of deliveries.
    pub fn state(&self) -> &OwnedFd {
        &self.state
    }

    /// Starts a generation of the backend, of a button that has been pressed so often.
    pub fn start(&self, pressed: u32) -> Result<InputGeneration, SupervisedError> {
        let record = InputRecord {
            version: VERSION,
            vm_id: "loadgen".into(),
            device_id: "power-button".into(),
            pressed,
            seccomp: Mode::Kill,
            log_format: LogFormat::Text,
        };
        let fds = vec![(input::STATE, self.state.try_clone()?)];
        let listener = (input::LISTENER, &self.listener);
        let backend = super::start(&self.binary, &record, listener, fds, None)?;
        Ok(InputGeneration(backend))
    }
}

/// A backend process.
#[derive(Debug)]
pub struct InputGeneration(Backend);

impl InputGeneration {
    /// The button has been pressed so often.
    pub fn press(&self, count: u32) -> Result<(), SupervisedError> {
        Ok(self.0.control.send(&ToBackend::Press(count))?)
    }

    /// Its health page.
    pub fn health(&self) -> &HealthPage {
        &self.0.health
    }

    /// Kills it, and waits for its end.
    pub fn kill(mut self) -> io::Result<()> {
        self.0.child.kill()?;
        self.0.child.wait().map(drop)
    }
}

impl Drop for InputGeneration {
    fn drop(&mut self) {
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}
