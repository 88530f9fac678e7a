// SPDX-License-Identifier: Apache-2.0
//! The launch record of a network backend.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{BackendRecord, Record};
use crate::log_format::LogFormat;
use crate::mac::MacAddress;
use crate::seccomp::Mode;

/// The launch record of a network backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRecord {
    /// [`VERSION`](super::VERSION) of the build that wrote it.
    pub version: u32,
    /// The VM's name, for the log.
    pub vm_id: String,
    /// The device's name, for the log.
    pub device_id: String,
    /// The number of queue pairs, 1 to [`crate::fd::net::PAIRS_MAX`]. The tap has as many queues,
    /// from [`crate::fd::net::TAP`] on.
    pub pairs: u16,
    /// The most entries a queue may have: a power of two from 64 to 1024.
    pub queue_size: u16,
    /// The MAC address.
    pub mac: MacAddress,
    /// The MTU that the device offers, if any.
    pub mtu: Option<u16>,
    /// Whether the tap supports UDP segmentation.
    pub uso: bool,
    /// Whether the link is up.
    pub link_up: bool,
    /// What the guest may not send.
    pub guard: Guard,
    /// How long a worker polls before it sleeps, in µs; 0 does not poll.
    pub poll_us: u32,
    /// What happens on a system call outside the filter.
    pub seccomp: Mode,
    /// How it writes to the log.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// What the guest may not send: each check can be switched off; an empty list allows every address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Frames must come from the device's own MAC address, which the driver cannot change.
    pub mac: bool,
    /// No DHCP server, no router advertisements, no spanning tree or the like.
    pub services: bool,
    /// The IPv4 addresses it may use, in packets and in ARP.
    pub ipv4: Vec<Ipv4Addr>,
    /// The IPv6 addresses it may use, in packets and in neighbour discovery.
    pub ipv6: Vec<Ipv6Addr>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            mac: true,
            services: true,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
        }
    }
}

impl Record for NetRecord {}

impl BackendRecord for NetRecord {
    fn vm_id(&self) -> &str {
        &self.vm_id
    }

    fn device_id(&self) -> &str {
        &self.device_id
    }

    fn log_format(&self) -> LogFormat {
        self.log_format
    }
}
