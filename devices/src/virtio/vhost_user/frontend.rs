// SPDX-License-Identifier: Apache-2.0
//! The frontend's requests to a backend, in the order in which they are sent (vhost-user
//! specification, "Front-end message types").

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserConfigFlags, VhostUserInflight, VhostUserVringAddr,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vm_memory::{Address, ByteValued};

use crate::virtio::device::{ActiveQueue, QueueIndex};
use crate::virtio::features::{VERSION_1, VHOST_USER_PROTOCOL};
use crate::virtio::vhost_user::connection::{Connection, Deadline, Request};
use crate::virtio::vhost_user::events::{LinkError, PeerFault};
use crate::virtio::vhost_user::inflight::InflightRegion;
use crate::virtio::vhost_user::memory::SharedMemory;
use crate::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin};

/// A backend that has passed the negotiation.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    features: u64,
    config: Option<Vec<u8>>,
    acknowledges: bool,
    /// It records its requests in progress in a region that the next backend finds.
    tracks: bool,
    memory_known: bool,
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Session {
    /// Negotiates with a backend: everything up to its configuration.
    pub(super) fn open(
        stream: OwnedFd,
        spec: &DeviceSpec,
        has_region: bool,
        deadline: Deadline,
    ) -> Result<Self, LinkError> {
        let connection = Connection::new(stream);
        connection.tell(plain(FrontendReq::SET_OWNER), deadline)?;
        let features = get_u64(&connection, FrontendReq::GET_FEATURES, deadline)?;
        let missing = (VERSION_1 | VHOST_USER_PROTOCOL) & !features;
        if missing != 0 {
            return Err(PeerFault::Features { missing }.into());
        }
        let protocol = negotiate_protocol(&connection, spec, has_region, deadline)?;
        if protocol.contains(VhostUserProtocolFeatures::MQ) {
            let queues = get_u64(&connection, FrontendReq::GET_QUEUE_NUM, deadline)?;
            if queues < spec.queue_max_sizes.len() as u64 {
                return Err(PeerFault::Queues(queues).into());
            }
        }
        let config = match &spec.config {
            ConfigSource::Fixed(bytes) => Some(bytes.clone()),
            ConfigSource::PowerButton => Some(Vec::new()),
            ConfigSource::Nic { .. } if !protocol.contains(VhostUserProtocolFeatures::CONFIG) => {
                None
            }
            ConfigSource::Backend { .. } | ConfigSource::Nic { .. } => {
                let len_bytes = spec.config.len_bytes();
                Some(get_config(&connection, len_bytes, deadline)?)
            }
        };
        Ok(Self {
            connection,
            features,
            config,
            acknowledges: protocol.contains(VhostUserProtocolFeatures::REPLY_ACK),
            tracks: protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD),
            memory_known: false,
        })
    }

    /// The features the backend offers.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// The backend's configuration, if it has one.
    pub(super) fn config(&self) -> Option<&[u8]> {
        self.config.as_deref()
    }

    /// Whether the next backend will know the requests in progress, from a region that the frontend
    /// passes on.
    pub(super) fn tracks(&self) -> bool {
        self.tracks
    }

    /// Passes on the region in which the backend records its requests in progress, as the previous
    /// one did.
    fn share_region(
        &self,
        region: &InflightRegion,
        spec: &DeviceSpec,
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let Some(fd) = region.fd() else {
            return Ok(());
        };
        let sizes = &spec.queue_max_sizes;
        let queues = u16::try_from(sizes.len()).unwrap_or(u16::MAX);
        let size = sizes.first().copied().unwrap_or_default();
        let body = VhostUserInflight::new(region.len_bytes(), 0, queues, size);
        self.set(
            FrontendReq::SET_INFLIGHT_FD,
            body.as_slice(),
            &[fd],
            deadline,
        )
    }

    /// The fault of a connection that became readable while no reply was due.
    pub(super) fn unasked(&self) -> LinkError {
        self.connection.unasked()
    }

    /// Sends a request, and returns when the backend has handled it.
    fn set(
        &self,
        code: FrontendReq,
        body: &[u8],
        fds: &[RawFd],
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let request = Request { code, body, fds };
        if self.acknowledges {
            return self.connection.set(request, deadline);
        }
        // The backend handles requests in order: once it has replied to this one, it has handled
        // the other.
        self.connection.tell(request, deadline)?;
        get_u64(&self.connection, FrontendReq::GET_FEATURES, deadline).map(drop)
    }

    fn set_state(
        &self,
        code: FrontendReq,
        queue: QueueIndex,
        value: u16,
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let state = VhostUserVringState::new(u32::from(queue.0), u32::from(value));
        self.set(code, state.as_slice(), &[], deadline)
    }

    /// Sends the settings of all queues, each with its base index. They do not run yet.
    pub(super) fn configure(
        &mut self,
        memory: &SharedMemory,
        features: u64,
        queues: &[(ActiveQueue, u16)],
        region: Option<(&InflightRegion, &DeviceSpec)>,
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        // The backend must not see features that only the vmm offers.
        let features = (features & self.features | VHOST_USER_PROTOCOL).to_ne_bytes();
        self.set(FrontendReq::SET_FEATURES, &features, &[], deadline)?;
        if !self.memory_known {
            let (table, fds) = (memory.table(), memory.fds());
            self.set(FrontendReq::SET_MEM_TABLE, table, fds, deadline)?;
            self.memory_known = true;
        }
        if let (true, Some((region, spec))) = (self.tracks, region) {
            self.share_region(region, spec, deadline)?;
        }
        for (queue, base) in queues {
            self.configure_queue(queue, *base, deadline)?;
        }
        Ok(())
    }

    fn configure_queue(
        &self,
        queue: &ActiveQueue,
        base: u16,
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let (index, layout) = (queue.index, &queue.layout);
        self.set_state(FrontendReq::SET_VRING_NUM, index, layout.size(), deadline)?;
        let addresses = VhostUserVringAddr::new(
            u32::from(index.0),
            VhostUserVringAddrFlags::empty(),
            layout.descriptors().raw_value(),
            layout.device().raw_value(),
            layout.driver().raw_value(),
            0,
        );
        let code = FrontendReq::SET_VRING_ADDR;
        self.set(code, addresses.as_slice(), &[], deadline)?;
        self.set_state(FrontendReq::SET_VRING_BASE, index, base, deadline)?;
        let number = u64::from(index.0).to_ne_bytes();
        for (code, eventfd) in [
            (FrontendReq::SET_VRING_CALL, &queue.events.call),
            (FrontendReq::SET_VRING_KICK, &queue.events.kick),
        ] {
            self.set(code, &number, &[eventfd.as_raw_fd()], deadline)?;
        }
        Ok(())
    }

    /// Enables or disables a queue.
    pub(super) fn enable(
        &self,
        queue: QueueIndex,
        enable: bool,
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let code = FrontendReq::SET_VRING_ENABLE;
        self.set_state(code, queue, u16::from(enable), deadline)
    }

    /// Stops a queue and returns its base index; the backend completes the requests in progress.
    pub(super) fn stop(&self, queue: QueueIndex, deadline: Deadline) -> Result<u16, LinkError> {
        let code = FrontendReq::GET_VRING_BASE;
        let asked = VhostUserVringState::new(u32::from(queue.0), 0);
        let mut answer = VhostUserVringState::default();
        let body = asked.as_slice();
        let request = Request {
            code,
            body,
            fds: &[],
        };
        self.connection
            .get(request, answer.as_mut_slice(), deadline)?;
        let (index, base) = (answer.index, answer.num);
        if index != u32::from(queue.0) {
            return Err(PeerFault::Malformed(code).into());
        }
        u16::try_from(base).map_err(|_| PeerFault::Base(queue).into())
    }
}

fn plain(code: FrontendReq) -> Request<'static> {
    Request {
        code,
        body: &[],
        fds: &[],
    }
}

fn get_u64(
    connection: &Connection,
    code: FrontendReq,
    deadline: Deadline,
) -> Result<u64, LinkError> {
    let mut answer = [0; 8];
    connection.get(plain(code), &mut answer, deadline)?;
    Ok(u64::from_ne_bytes(answer))
}

/// Negotiates the same protocol features with every backend that offers them.
fn negotiate_protocol(
    connection: &Connection,
    spec: &DeviceSpec,
    has_region: bool,
    deadline: Deadline,
) -> Result<VhostUserProtocolFeatures, LinkError> {
    let code = FrontendReq::GET_PROTOCOL_FEATURES;
    let offered = get_u64(connection, code, deadline)?;
    let mut required = VhostUserProtocolFeatures::empty();
    let mut wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
    match (&spec.config, spec.origin) {
        (ConfigSource::Backend { .. }, _) | (ConfigSource::Nic { .. }, Origin::Own) => {
            required |= VhostUserProtocolFeatures::CONFIG;
        }
        (ConfigSource::Nic { .. }, Origin::Foreign) => wanted |= VhostUserProtocolFeatures::CONFIG,
        (ConfigSource::Fixed(_) | ConfigSource::PowerButton, _) => {}
    }
    if has_region && spec.origin == Origin::Foreign {
        wanted |= VhostUserProtocolFeatures::INFLIGHT_SHMFD;
    }
    if spec.origin == Origin::Own {
        required |= VhostUserProtocolFeatures::REPLY_ACK;
    }
    let missing = required.bits() & !offered;
    if missing != 0 {
        return Err(PeerFault::ProtocolFeatures { missing }.into());
    }
    let wanted = required | wanted;
    let agreed = VhostUserProtocolFeatures::from_bits_truncate(wanted.bits() & offered);
    // REPLY_ACK is only negotiated by this request, so do not wait for a reply.
    let request = Request {
        code: FrontendReq::SET_PROTOCOL_FEATURES,
        body: &agreed.bits().to_ne_bytes(),
        fds: &[],
    };
    connection.tell(request, deadline)?;
    Ok(agreed)
}

fn get_config(
    connection: &Connection,
    len_bytes: usize,
    deadline: Deadline,
) -> Result<Vec<u8>, LinkError> {
    let code = FrontendReq::GET_CONFIG;
    let len = u32::try_from(len_bytes).unwrap_or(u32::MAX);
    let header = VhostUserConfig::new(0, len, VhostUserConfigFlags::empty());
    let mut body = header.as_slice().to_vec();
    let start = body.len();
    body.resize(start + len_bytes, 0);
    let mut answer = body.clone();
    let request = Request {
        code,
        body: &body,
        fds: &[],
    };
    connection.get(request, &mut answer, deadline)?;
    let config = answer.split_off(start);
    // Offset and size must match the request; the specification does not define a reply's flags.
    if answer.get(..8) != body.get(..8) {
        return Err(PeerFault::Malformed(code).into());
    }
    Ok(config)
}
