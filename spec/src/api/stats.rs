// SPDX-License-Identifier: Apache-2.0
//! `GET /v1/stats`: what a VM has done so far, as its processes count it in shared memory. Taking it
//! costs them nothing.
//!
//! Counters only ever grow while the VM lives: a guest that reboots and a backend that is replaced
//! go on where the one before has ended. Processor time and memory of the processes are not among
//! them: a client that wants those looks at `/proc` of the host, by the numbers given here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ProcessInfo, VmState};
use crate::VmName;

/// The answer to `GET /v1/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stats {
    /// The VM's name.
    pub name: VmName,
    /// CLOCK_MONOTONIC in ns at which the numbers were taken.
    pub time_ns: u64,
    /// What the VM is doing.
    pub state: VmState,
    /// How often the guest has rebooted.
    pub reboots: u32,
    /// Why vCPUs have left the guest for the vmm.
    pub exits: ExitStats,
    /// The processes of the VM, the jailer first.
    pub processes: Vec<ProcessInfo>,
    /// The devices whose backends are the VM's own processes.
    pub devices: Vec<DeviceStats>,
}

/// Exits of all vCPUs to the vmm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExitStats {
    /// For port I/O.
    pub pio: u64,
    /// For memory-mapped I/O.
    pub mmio: u64,
}

/// What one device has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceStats {
    /// Its name.
    pub id: String,
    /// What kind it is.
    pub kind: DeviceKind,
    /// How many of its backends have died.
    pub restarts: u64,
    /// All of its queues together.
    pub total: Traffic,
    /// Its queues, in the order of the device's specification.
    pub queues: Vec<QueueStats>,
    /// Of a NIC: frames and control commands that went no further, by reason. Not sent, because the
    /// guard forbids it: `source-mac`, `source-ip`, `neighbour`, `dhcp`, `router`, `link-control`,
    /// `evasive`, `checksum`; as no frame at all: `header`, `frame`; refused by the host: `host`. Not
    /// received: `unwanted`, `too-long`, `offload`. Neither, while tap or cable were down: `down`. Not
    /// done: `command` as nonsense, `refused` by the guard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A disk: requests are reads, writes, flushes and so on.
    Disk,
    /// A network interface: requests are packets, received on the queues 0, 2, 4 ... and sent on
    /// the queues 1, 3, 5 ....
    Nic,
}

/// What has gone through a device or one of its queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Traffic {
    /// Requests completed; of a NIC, packets.
    pub requests: u64,
    /// Requests among them that ended in an error.
    pub errors: u64,
    /// Bytes that the guest has read or received.
    pub read_bytes: u64,
    /// Bytes that the guest has written or sent.
    pub written_bytes: u64,
}

impl Traffic {
    /// Both together. What processes count is theirs to claim, so that sums must not overflow.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            read_bytes: self.read_bytes.saturating_add(other.read_bytes),
            written_bytes: self.written_bytes.saturating_add(other.written_bytes),
        }
    }
}

/// One queue of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QueueStats {
    /// What has gone through it.
    pub traffic: Traffic,
    /// Requests that its backend has fetched and not completed.
    pub in_flight: u32,
    /// For how long the oldest of them has been there, in ns; 0 if there is none.
    pub oldest_age_ns: u64,
    /// What is behind the backend takes no more for now.
    pub backpressured: bool,
    /// The guest broke the rules of virtio; the queue stands still until the device is reset.
    pub broken: bool,
}
