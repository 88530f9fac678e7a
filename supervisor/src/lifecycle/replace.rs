// SPDX-License-Identifier: Apache-2.0
//! A guest that outlives its vmm.

use spec::api::VmState;

use super::Lifecycle;

impl Lifecycle {
    /// The guest stands still, and another vmm is to take it up.
    pub(crate) fn replace(&mut self) {
        (self.running, self.listens, self.replacing) = (VmState::Starting, false, true);
        (self.notice, self.deadline_ns) = (None, None);
    }

    /// Another vmm has taken the guest up.
    pub(crate) fn replaced(&mut self) {
        self.replacing = false;
    }

    /// Whether the vmm is killed to end or to reset its guest.
    pub(crate) fn is_killed(&self) -> bool {
        self.forced.is_some() || self.resetting.is_some()
    }
}
