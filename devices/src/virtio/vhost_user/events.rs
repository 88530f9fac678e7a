// SPDX-License-Identifier: Apache-2.0
//! What a device reports, and everything that can go wrong: by whose fault.

use std::time::Duration;

use vhost::vhost_user::message::FrontendReq;

use crate::virtio::device::QueueIndex;

/// What befell a device.
#[derive(Debug)]
pub enum DeviceEvent {
    /// A backend was found fit for the device. The device runs as soon as its driver wants it to.
    Connected,
    /// The driver's queues run on the backend that is connected.
    Running,
    /// The backend is connected no more, by its own fault. The device stalls until another one is
    /// attached.
    Lost(PeerFault),
    /// The backend is connected no more, and it is not its fault. The device stalls.
    Failed(HostFault),
    /// As asked, the queues were stopped in an orderly way; what was in progress has been completed.
    Drained,
    /// The backend that was to be judged can take over.
    Compatible,
    /// It cannot: why.
    Incompatible(Incompatible),
    /// Once a second, what the driver waits for; without any, once.
    Outstanding(Vec<Outstanding>),
    /// The driver asked for something impossible; it has been told to reset the device.
    Guest(GuestFault),
}

/// A queue with requests that the driver waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    /// Which one.
    pub queue: QueueIndex,
    /// The available index.
    pub avail: u16,
    /// The used index.
    pub used: u16,
}

/// Why a backend cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum Incompatible {
    /// By its own fault.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// It is not its fault.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// Where a device reports it; called on the device's thread, must not wait.
pub trait DeviceEvents: Send + Sync {
    /// Reports one.
    fn report(&self, event: DeviceEvent);
}

/// What a backend did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// It hung up.
    #[error("the backend closed the connection")]
    Closed,
    /// It sent something it was not asked for.
    #[error("the backend sent something unasked")]
    Unasked,
    /// It did not read or answer a request in time.
    #[error("the backend did not answer {request:?} within {timeout:?}")]
    Silent {
        /// The request.
        request: FrontendReq,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// Its answer is not one to the request.
    #[error("the backend's answer to {0:?} is malformed")]
    Malformed(FrontendReq),
    /// It attached descriptors to its answer.
    #[error("the backend attached descriptors to its answer to {0:?}")]
    Descriptors(FrontendReq),
    /// It refused a request.
    #[error("the backend refused {0:?}")]
    Refused(FrontendReq),
    /// It lacks features that the driver relies on, or without which there is no device.
    #[error("the backend lacks features {missing:#x}")]
    Features {
        /// Which ones.
        missing: u64,
    },
    /// It lacks vhost-user protocol features.
    #[error("the backend lacks protocol features {missing:#x}")]
    ProtocolFeatures {
        /// Which ones.
        missing: u64,
    },
    /// It has fewer queues than the device.
    #[error("the backend has {0} queues, the device has more")]
    Queues(u64),
    /// Its configuration space is not what the driver was shown.
    #[error("the backend's configuration is not that of the device")]
    Config,
    /// It stopped a queue where the queue cannot be.
    #[error("the backend stopped queue {0} at an impossible index")]
    Base(QueueIndex),
    /// It stopped a queue and did not complete what it had in progress.
    #[error("the backend left requests of queue {0} unfinished")]
    Unfinished(QueueIndex),
}

/// What went wrong in this process or in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// The connection cannot be used.
    #[error("cannot use the connection to the backend")]
    Socket(#[source] nix::Error),
    /// A backend is gone, and nobody knows which requests it had completed.
    #[error("requests of queue {0} are lost: the backend before left no record of them")]
    Forgotten(QueueIndex),
}

/// What a driver did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// It placed a queue where there is no memory.
    #[error("queue {0} is not in guest memory")]
    QueueOutsideMemory(QueueIndex),
}

/// Why something done with a backend came to no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Peer(#[from] PeerFault),
    #[error(transparent)]
    Host(#[from] HostFault),
    /// It does not matter any more: there is another backend, or the device is to end.
    #[error("interrupted")]
    Interrupted,
}
