// SPDX-License-Identifier: Apache-2.0
//! The configuration of a device before its backend has connected.

use std::time::Duration;

use crate::virtio::device::DeviceType;
use crate::virtio::vhost_user::{button, nic};

/// The origin of a device's configuration space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// The backend provides it.
    Backend {
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// It is known without the backend; possibly empty.
    Fixed(Vec<u8>),
    /// A power button's: the vmm provides it.
    PowerButton,
    /// A network card's: the vmm provides the link state, and the rest if the backend does not.
    Nic {
        /// The MAC address, if the backend provides none.
        mac: [u8; 6],
    },
}

impl ConfigSource {
    /// The origin for most devices of this type, with the length of `struct virtio_…_config` that
    /// every backend supports (virtio 1.2 §5). A network card needs [`Self::Nic`], a power button
    /// [`Self::PowerButton`].
    pub fn of(device_type: DeviceType) -> Self {
        match device_type {
            DeviceType::BLOCK => Self::Backend { len_bytes: 60 },
            DeviceType::VSOCK => Self::Backend { len_bytes: 8 },
            _ => Self::Fixed(Vec::new()),
        }
    }

    /// That of a file system (§5.11.4), whose backend does not know its own tag. Truncates the tag
    /// to 36 bytes.
    pub fn file_system(tag: &str, request_queues: u32) -> Self {
        let mut config = vec![0; 36];
        for (byte, value) in config.iter_mut().zip(tag.bytes()) {
            *byte = value;
        }
        config.extend(request_queues.to_le_bytes());
        Self::Fixed(config)
    }

    /// The length in bytes.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Backend { len_bytes } => *len_bytes,
            Self::Fixed(bytes) => bytes.len(),
            Self::PowerButton => button::CONFIG_LEN,
            Self::Nic { .. } => nic::CONFIG_LEN,
        }
    }
}

/// Whose program the backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Bulkhead's. It acknowledges every request, and checks a queue when it is enabled.
    Own,
    /// An external one.
    Foreign,
}

/// Time limits for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For connecting, and again for starting the queues.
    pub connect: Duration,
    /// For completing the requests in progress when the queues stop. Slow storage is not a fault.
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

/// The configuration of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its type.
    pub device_type: DeviceType,
    /// The largest size of each queue; powers of two.
    pub queue_max_sizes: Vec<u16>,
    /// Its configuration space.
    pub config: ConfigSource,
    /// Whose program its backends are.
    pub origin: Origin,
    /// The time limits for its backends.
    pub timeouts: Timeouts,
}

impl DeviceSpec {
    /// Whether backends use the buffers of a queue in order, so that the used index alone tells the
    /// next backend where to continue.
    pub fn works_in_order(&self) -> bool {
        let types = [DeviceType::NET, DeviceType::RNG, DeviceType::VSOCK];
        types.contains(&self.device_type)
    }

    /// Whether the buffers of a queue are requests, which a backend must serve soon, rather than
    /// buffers for input.
    pub fn has_requests(&self, queue: u16) -> bool {
        match self.device_type {
            // Virtio 1.2 §5.1.2: receiveq1, transmitq1, … and a control queue, which is even.
            DeviceType::NET => queue % 2 == 1,
            // §5.10.2: rx, tx, event.
            DeviceType::VSOCK => queue == 1,
            // §5.4.2: buffers to fill, whenever there is entropy.
            DeviceType::RNG => false,
            DeviceType::BLOCK | DeviceType::FS => true,
            // Unknown for these types.
            _ => false,
        }
    }
}
