// SPDX-License-Identifier: Apache-2.0
//! The main thread between building the machine and running the guest: waits until each device has
//! had a backend, so that its driver finds features and configuration. Meanwhile it handles the
//! supervisor's messages, which may replace a backend that died before it connected.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipc::control::{Channel, ControlError, FromVmm, ToVmm};
use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::virtio::Device;

/// The time limit for the backends to connect when a VM starts for the first time. The supervisor
/// has started them before the vmm.
const FIRST_START: Duration = Duration::from_secs(5);
/// How long to wait for one backend before handling messages.
const LOOK: Duration = Duration::from_millis(20);

/// Why waiting for the backends failed.
#[derive(Debug, thiserror::Error)]
pub enum AwaitError {
    /// No compatible backend has connected in time.
    #[error("device {0} has no backend")]
    NoBackend(String),
    /// The supervisor sent a malformed message or cannot be reached.
    #[error(transparent)]
    Channel(#[from] ControlError),
    /// poll(2) failed.
    #[error("cannot wait for messages")]
    Poll(#[source] Errno),
    /// The supervisor has gone.
    #[error("the supervisor has gone")]
    Orphaned,
}

/// How long to wait for the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The VM starts for the first time: a backend that has not connected soon never will.
    FirstStart,
    /// The guest has rebooted: the supervisor restarts a backend again and again, or reports that
    /// the user wants the VM to end.
    Endless,
}

/// Why the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Each device has had a backend.
    Backends,
    /// The power button was pressed. No guest is running to handle it: the machine is off.
    PowerOff,
}

/// Waits until each device has had a backend.
pub fn await_backends(
    devices: &[Device],
    channel: &Channel,
    patience: Patience,
) -> Result<Awaited, AwaitError> {
    let begun = Instant::now();
    let mut told = false;
    for device in devices {
        while !device.wait_until_connected(LOOK) {
            if patience == Patience::FirstStart && begun.elapsed() >= FIRST_START {
                return Err(AwaitError::NoBackend(device.to_string()));
            }
            if !std::mem::replace(&mut told, true) {
                channel.send(&FromVmm::Waiting)?;
            }
            if obey(devices, channel)? == Awaited::PowerOff {
                return Ok(Awaited::PowerOff);
            }
        }
    }
    Ok(Awaited::Backends)
}

/// Handles the messages that have arrived.
fn obey(devices: &[Device], channel: &Channel) -> Result<Awaited, AwaitError> {
    while has_message(channel)? {
        let (message, stream) = channel.receive_with()?.ok_or(AwaitError::Orphaned)?;
        match message {
            ToVmm::PowerButton => return Ok(Awaited::PowerOff),
            ToVmm::Device(slot, message) => Device::dispatch(devices, slot, message, stream),
            ToVmm::Pause | ToVmm::Resume | ToVmm::Save => warn!("ignored: no guest runs yet"),
        }
        info!("done before the start: {message:?}");
    }
    Ok(Awaited::Backends)
}

fn has_message(channel: &Channel) -> Result<bool, AwaitError> {
    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(AwaitError::Poll(errno)),
    }
}
