// SPDX-License-Identifier: Apache-2.0
//! What a supervisor is born with.

use ipc::control::Channel;
use nix::unistd::Pid;

use crate::host_resources::HostResources;

/// What a supervisor is born with.
#[derive(Debug)]
pub struct SupervisorInit {
    /// All that it will have.
    pub resources: HostResources,
    /// Its end of the link, non-blocking.
    pub channel: Channel,
    /// Whether the VM has users of its own.
    pub has_range: bool,
    /// The jailer's process id.
    pub jailer: Pid,
}
