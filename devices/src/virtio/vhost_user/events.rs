// SPDX-License-Identifier: Apache-2.0
//! The events of a device, and its faults by origin: backend, host or guest.

use std::time::Duration;

use vhost::vhost_user::message::FrontendReq;

use crate::virtio::device::QueueIndex;

/// An event of a device.
#[derive(Debug)]
pub enum DeviceEvent {
    /// The device has accepted a backend. It runs as soon as its driver has activated it.
    Connected,
    /// The driver's queues run on the connected backend.
    Running,
    /// The connection ended by the backend's fault. The device stalls until another backend is
    /// attached.
    Lost(PeerFault),
    /// The connection ended by the host's fault. The device stalls.
    Failed(HostFault),
    /// The queues are stopped, as asked, and the requests in progress completed.
    Drained,
    /// The probed backend can take over.
    Compatible,
    /// The probed backend cannot take over: why.
    Incompatible(Incompatible),
    /// Once a second, the queues with outstanding requests; once, if there are none.
    Outstanding(Vec<Outstanding>),
    /// The driver broke the rules of virtio. The device has set DEVICE_NEEDS_RESET.
    Guest(GuestFault),
}

/// A queue with outstanding requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    /// Its index.
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
    /// By the host's fault.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// Receives a device's events; called on the device's thread, must not block.
pub trait DeviceEvents: Send + Sync {
    /// Reports an event.
    fn report(&self, event: DeviceEvent);
}

/// A fault of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// It hung up.
    #[error("the backend closed the connection")]
    Closed,
    /// It sent something unrequested.
    #[error("the backend sent something unasked")]
    Unasked,
    /// It did not read or answer a request in time.
    #[error("the backend did not answer {request:?} within {timeout:?}")]
    Silent {
        /// The request.
        request: FrontendReq,
        /// The time limit.
        timeout: Duration,
    },
    /// Its reply does not match the request.
    #[error("the backend's answer to {0:?} is malformed")]
    Malformed(FrontendReq),
    /// It attached descriptors to its reply.
    #[error("the backend attached descriptors to its answer to {0:?}")]
    Descriptors(FrontendReq),
    /// It refused a request.
    #[error("the backend refused {0:?}")]
    Refused(FrontendReq),
    /// It lacks features that the driver uses, or that every device needs.
    #[error("the backend lacks features {missing:#x}")]
    Features {
        /// The missing features.
        missing: u64,
    },
    /// It lacks vhost-user protocol features.
    #[error("the backend lacks protocol features {missing:#x}")]
    ProtocolFeatures {
        /// The missing protocol features.
        missing: u64,
    },
    /// It has fewer queues than the device.
    #[error("the backend has {0} queues, the device has more")]
    Queues(u64),
    /// Its configuration space differs from what the driver was offered.
    #[error("the backend's configuration is not that of the device")]
    Config,
    /// It stopped a queue at an impossible index.
    #[error("the backend stopped queue {0} at an impossible index")]
    Base(QueueIndex),
    /// It stopped a queue without completing the requests in progress.
    #[error("the backend left requests of queue {0} unfinished")]
    Unfinished(QueueIndex),
}

/// A fault of the vmm or of the host kernel.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// The connection cannot be used.
    #[error("cannot use the connection to the backend")]
    Socket(#[source] nix::Error),
    /// The backend is gone, and there is no record of which requests it had completed.
    #[error("requests of queue {0} are lost: the backend before left no record of them")]
    Forgotten(QueueIndex),
}

/// A fault of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// It placed a queue outside guest memory.
    #[error("queue {0} is not in guest memory")]
    QueueOutsideMemory(QueueIndex),
}

/// Why an exchange with a backend failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Peer(#[from] PeerFault),
    #[error(transparent)]
    Host(#[from] HostFault),
    /// It is pointless now: there is another backend, or the device ends.
    #[error("interrupted")]
    Interrupted,
}
