// SPDX-License-Identifier: Apache-2.0
//! What a supervisor is born with.

use ipc::control::Channel;
use nix::unistd::Pid;

use crate::endowment::Endowment;

/// What a supervisor is born with.
#[derive(Debug)]
pub struct Nursery {
    /// All that it will have.
    pub endowment: Endowment,
    /// Its end of the link, non-blocking.
    pub channel: Channel,
    /// Whether the VM has users of its own.
    pub has_range: bool,
    /// The janitor's process id.
    pub janitor: Pid,
}
