// SPDX-License-Identifier: Apache-2.0
//! What the next vmm gets: its program, guest memory, and the state of the vmm before, if it takes that up.

use std::os::fd::OwnedFd;

use handover::host_resources::Guest;

use super::vmm::VmmError;
use super::{Supervisor, SupervisorError};

impl Supervisor {
    /// The memory for the next vmm: that of the guest, or fresh one.
    pub(super) fn ram(&mut self, keeps: bool) -> Result<OwnedFd, SupervisorError> {
        let duplicate = |ram: &OwnedFd| {
            ram.try_clone()
                .map_err(|error| VmmError::from(error).into())
        };
        if let (true, Some(ram)) = (keeps, &self.ram) {
            return duplicate(ram);
        }
        // First: there may not be room for both.
        self.ram = None;
        let ram = match self.guest.ram.take() {
            Some(ram) => ram,
            None => Guest::fresh_ram(&self.identity.vm.memory)?,
        };
        let kept = self.ram.insert(ram);
        duplicate(kept)
    }

    /// The program of the next vmm, which is about to be started, and the state that it takes up, if it does.
    pub(super) fn for_next_vmm(
        &mut self,
        now_ns: u64,
    ) -> Result<(OwnedFd, Option<OwnedFd>), VmmError> {
        let Some(replacement) = &mut self.replacement else {
            return Ok((self.context.binaries.vmm.try_clone()?, None));
        };
        let usual = &self.context.binaries.vmm;
        let program = replacement.program().unwrap_or(usual).try_clone()?;
        let state = replacement.state().try_clone()?;
        replacement.started(now_ns);
        Ok((program, Some(state)))
    }
}
