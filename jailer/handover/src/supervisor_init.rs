// SPDX-License-Identifier: Apache-2.0
//! What a supervisor is started with.

use ipc::control::Channel;
use nix::unistd::Pid;

use crate::host_resources::HostResources;

/// What a supervisor is started with.
#[derive(Debug)]
pub struct SupervisorInit {
    /// All the resources it will ever have.
    pub resources: HostResources,
    /// Its end of the socket to the jailer, non-blocking.
    pub channel: Channel,
    /// Whether the VM has a range of users of its own.
    pub has_range: bool,
    /// The jailer's process id.
    pub jailer: Pid,
}
