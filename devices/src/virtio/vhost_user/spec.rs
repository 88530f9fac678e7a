// SPDX-License-Identifier: Apache-2.0
//! What a device is, before anyone has seen its backend.

use std::time::Duration;

use crate::virtio::device::DeviceType;
use crate::virtio::vhost_user::nic;

/// Where a device's configuration space comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// The backend has it.
    Backend {
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// It is known without the backend; possibly empty.
    Fixed(Vec<u8>),
    /// A network card's: the link's state is known without the backend, the rest from the backend
    /// if it knows it.
    Nic {
        /// The MAC address, if the backend knows none.
        mac: [u8; 6],
    },
}

impl ConfigSource {
    /// Where it comes from for most devices of this type: the length of `struct virtio_…_config` as
    /// far as every backend knows it (virtio 1.2 §5). A network card's is [`Self::Nic`].
    pub fn of(device_type: DeviceType) -> Self {
        match device_type {
            DeviceType::BLOCK => Self::Backend { len_bytes: 60 },
            DeviceType::VSOCK => Self::Backend { len_bytes: 8 },
            _ => Self::Fixed(Vec::new()),
        }
    }

    /// A file system's (§5.11.4), whose backend does not know its own tag. The tag is cut at 36
    /// bytes.
    pub fn file_system(tag: &str, request_queues: u32) -> Self {
        let mut config = vec![0; 36];
        for (byte, value) in config.iter_mut().zip(tag.bytes()) {
            *byte = value;
        }
        config.extend(request_queues.to_le_bytes());
        Self::Fixed(config)
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Backend { len_bytes } => *len_bytes,
            Self::Fixed(bytes) => bytes.len(),
            Self::Nic { .. } => nic::CONFIG_LEN,
        }
    }
}

/// Who wrote the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This project. It acknowledges every request, and looks at a queue when it is enabled.
    Own,
    /// Someone else.
    Foreign,
}

/// How long a backend may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For all of connecting, and for all of starting the queues.
    pub connect: Duration,
    /// For completing what is in progress when the queues are stopped. Slow storage is no fault.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(1500),
            drain: Duration::from_secs(120),
        }
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its type.
    pub device_type: DeviceType,
    /// The largest size of each queue; powers of two.
    pub queue_max_sizes: Vec<u16>,
    /// Its configuration space.
    pub config: ConfigSource,
    /// Who its backends are.
    pub origin: Origin,
    /// How long they may take.
    pub timeouts: Timeouts,
}

impl DeviceSpec {
    /// Whether backends use the buffers of a queue in the order in which they became available, so
    /// that the used index alone tells a later one where to go on.
    pub fn works_in_order(&self) -> bool {
        let types = [DeviceType::NET, DeviceType::RNG, DeviceType::VSOCK];
        types.contains(&self.device_type)
    }

    /// Whether the buffers of a queue are requests, which a backend has to serve soon; others wait
    /// for something to come in.
    pub fn has_requests(&self, queue: u16) -> bool {
        match self.device_type {
            // Virtio 1.2 §5.1.2: receiveq1, transmitq1, … and a control queue, which is even.
            DeviceType::NET => queue % 2 == 1,
            // §5.10.2: rx, tx, event.
            DeviceType::VSOCK => queue == 1,
            // §5.4.2: buffers to be filled, whenever there is entropy.
            DeviceType::RNG => false,
            DeviceType::BLOCK | DeviceType::FS => true,
            // Nobody knows.
            _ => false,
        }
    }
}
