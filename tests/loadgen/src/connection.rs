// SPDX-License-Identifier: Apache-2.0
//! A connection to a backend: negotiates, hands over memory and rings, starts them. Made anew, with
//! the same memory and rings, whenever a backend takes the place of another.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use device_backend::shared_mem::SharedMem;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use crate::memory::Memory;

/// The backend does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nobody listens.
    #[error("cannot connect to the backend")]
    Connect(#[source] io::Error),
    /// A step of the handshake failed.
    #[error("the backend failed at {0}: {1}")]
    Step(&'static str, vhost::Error),
    /// It lacks a feature.
    #[error("the backend lacks features {0:#x}")]
    Features(u64),
}

/// One queue as the backend gets it.
#[derive(Debug)]
pub struct QueueFds {
    /// Written by the driver.
    pub kick: EventFd,
    /// Written by the device.
    pub call: EventFd,
    /// Written by the device when the driver has broken the queue.
    pub error: EventFd,
}

impl QueueFds {
    /// New eventfds.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            kick: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            call: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            error: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }
}

/// Where a queue is and how it is notified: what a connection has to know, whoever drives the queue.
#[derive(Debug, Clone)]
pub struct Place {
    /// The number of descriptors.
    pub size: u16,
    /// Descriptor table, available ring and used ring.
    pub addresses: [GuestAddress; 3],
    /// The used ring.
    pub used: SharedMem,
    /// The eventfds.
    pub fds: Arc<QueueFds>,
}

impl Place {
    /// The used index as a device has published it: where a new backend begins.
    pub fn used_idx(&self) -> u16 {
        u16::from_le(self.used.at::<AtomicU16>(2).load(Ordering::Acquire))
    }
}

/// A connection.
pub struct Connection {
    frontend: Frontend,
    offered: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({:#x})", self.offered)
    }
}

/// What a disk says of itself.
#[derive(Debug, Clone, Copy)]
pub struct DiskConfig {
    /// Its size.
    pub capacity_bytes: u64,
    /// What requests must be a multiple of.
    pub block_bytes: u32,
    /// The number of queues it offers.
    pub queues: u16,
}

impl Connection {
    /// Connects to a socket, which may take its time to appear, and learns what is offered.
    pub fn open(path: &Path, patience: Duration) -> Result<Self, ConnectionError> {
        let deadline = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > deadline => return Err(ConnectionError::Connect(e)),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        Self::over(stream)
    }

    /// Learns what the backend at the other end of a stream offers.
    pub fn over(stream: UnixStream) -> Result<Self, ConnectionError> {
        let mut frontend = Frontend::from_stream(stream, 16);
        let step = |name| move |e| ConnectionError::Step(name, e);
        frontend.set_owner().map_err(step("SET_OWNER"))?;
        let offered = frontend.get_features().map_err(step("GET_FEATURES"))?;
        let protocol = frontend.get_protocol_features();
        let protocol = protocol.map_err(step("GET_PROTOCOL_FEATURES"))?;
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK;
        let set = frontend.set_protocol_features(protocol & wanted);
        set.map_err(step("SET_PROTOCOL_FEATURES"))?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        Ok(Self { frontend, offered })
    }

    /// The features the backend offers.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// The disk's configuration.
    pub fn config(&mut self) -> Result<DiskConfig, ConnectionError> {
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, space) = self
            .frontend
            .get_config(0, 60, flags, &[0; 60])
            .map_err(|e| ConnectionError::Step("GET_CONFIG", e))?;
        let field = |offset: usize, len: usize| {
            let bytes = space.iter().skip(offset).take(len).rev();
            bytes.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        Ok(DiskConfig {
            capacity_bytes: field(0, 8) * 512,
            block_bytes: u32::try_from(field(20, 4)).unwrap_or(512).max(512),
            queues: u16::try_from(field(34, 2)).unwrap_or(1).max(1),
        })
    }

    /// Hands over features, memory and rings, and starts the rings.
    pub fn start(
        &mut self,
        features: u64,
        memory: &Memory,
        queues: &[Place],
    ) -> Result<(), ConnectionError> {
        self.share(features, memory)?;
        self.start_rings(queues)
    }

    /// The first half of [`Connection::start`]: hands over features and memory.
    pub fn share(&mut self, features: u64, memory: &Memory) -> Result<(), ConnectionError> {
        let features = features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if features & !self.offered != 0 {
            return Err(ConnectionError::Features(features & !self.offered));
        }
        let step = |name| move |e| ConnectionError::Step(name, e);
        self.frontend
            .set_features(features)
            .map_err(step("SET_FEATURES"))?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: memory.len_bytes(),
            userspace_addr: 0,
            mmap_offset: 0,
            mmap_handle: memory.fd(),
        };
        let set = self.frontend.set_mem_table(&[region]);
        set.map(drop).map_err(step("SET_MEM_TABLE"))
    }

    /// The other half: hands over the rings and starts them.
    pub fn start_rings(&mut self, queues: &[Place]) -> Result<(), ConnectionError> {
        for (index, place) in queues.iter().enumerate() {
            self.start_ring(index, place)?;
        }
        // A backend that died may have used requests without calling.
        for place in queues {
            let _ = place.fds.call.write(1);
        }
        Ok(())
    }

    fn start_ring(&mut self, index: usize, place: &Place) -> Result<(), ConnectionError> {
        let step = |name| move |e| ConnectionError::Step(name, e);
        let (size, fds) = (place.size, &place.fds);
        let [desc, avail, used] = place.addresses;
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: desc.0,
            used_ring_addr: used.0,
            avail_ring_addr: avail.0,
            log_addr: None,
        };
        let frontend = &mut self.frontend;
        frontend
            .set_vring_num(index, size)
            .map_err(step("SET_VRING_NUM"))?;
        frontend
            .set_vring_addr(index, &addresses)
            .map_err(step("SET_VRING_ADDR"))?;
        frontend
            .set_vring_base(index, place.used_idx())
            .map_err(step("SET_VRING_BASE"))?;
        frontend
            .set_vring_err(index, &fds.error)
            .map_err(step("SET_VRING_ERR"))?;
        frontend
            .set_vring_call(index, &fds.call)
            .map_err(step("SET_VRING_CALL"))?;
        frontend
            .set_vring_kick(index, &fds.kick)
            .map_err(step("SET_VRING_KICK"))?;
        let enabled = frontend.set_vring_enable(index, true);
        enabled.map_err(|e| ConnectionError::Step("SET_VRING_ENABLE", e))
    }

    /// Stops a ring; the backend completes what it has taken. Returns the index it got to.
    pub fn stop_ring(&mut self, index: usize) -> Result<u16, ConnectionError> {
        let base = self.frontend.get_vring_base(index);
        let base = base.map_err(|e| ConnectionError::Step("GET_VRING_BASE", e))?;
        Ok(u16::try_from(base & 0xffff).unwrap_or(0))
    }
}
