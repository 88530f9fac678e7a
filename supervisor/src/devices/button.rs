// SPDX-License-Identifier: Apache-2.0
//! A power button that is a virtio device: what its backends are started with. How often it was
//! pressed is known here, how often the driver was told in a state that all backends share, so a press
//! outlives a backend. Nothing that a dead backend began can still happen.

use std::os::fd::OwnedFd;

use ipc::fd::{self, input};
use ipc::memfd::{self, Backing};
use ipc::record::{InputRecord, Record as _, VERSION};
use spec::api::DeviceKind;
use spec::{POWER_BUTTON_ID, PowerButton, SpecError};

use super::BeginError;
use super::kind::{BackendError, Kind, Opened, PreparedBackend, SUPERVISED, SpawnOptions, program};
use super::socket_pair::{self, SocketPair};
use crate::child::ChildSpec;
use crate::process::SpawnContext;
use crate::profile::Profile;

/// A power button.
#[derive(Debug)]
pub(crate) struct Button {
    profile: Profile,
    /// How often it was pressed since the vmm's start.
    pressed: u32,
    /// How far these presses were delivered.
    state: Option<OwnedFd>,
}

impl Button {
    /// A button whose backends have this jail.
    pub(crate) fn new(profile: Profile) -> Self {
        Self {
            profile,
            pressed: 0,
            state: None,
        }
    }
}

impl Kind for Button {
    fn id(&self) -> &str {
        POWER_BUTTON_ID
    }

    fn role(&self) -> String {
        format!("input {POWER_BUTTON_ID}")
    }

    fn fault(&self, reason: String) -> SpecError {
        SpecError::new("power-button", PowerButton::Virtio, reason)
    }

    /// The vmm shares nothing of it: a driver's reset does not undo a press.
    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        let state = memfd::shared("input-state", input::STATE_BYTES as u64, Backing::Shmem);
        let state = state.map_err(|source| BeginError::Inflight(self.id().into(), source))?;
        (self.pressed, self.state) = (0, Some(state));
        Ok(None)
    }

    fn kind(&self) -> Option<DeviceKind> {
        None
    }

    fn press(&mut self) -> Option<u32> {
        self.pressed = self.pressed.saturating_add(1);
        Some(self.pressed)
    }

    fn queues(&self) -> u16 {
        input::QUEUES
    }

    fn prepare(
        &mut self,
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        _: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        let state = self.state.as_ref().ok_or(nix::Error::EBADF)?;
        let record = InputRecord {
            version: VERSION,
            vm_id: context.vm_id.clone(),
            device_id: self.id().into(),
            pressed: self.pressed,
            seccomp: context.seccomp,
            log_format: context.log_format,
        };
        let SocketPair { listener, stream } = socket_pair::arrange()?;
        let child = ChildSpec {
            name: c"input-backend",
            arg: Some(SUPERVISED),
            program: program(how, context.binaries.input.as_ref())?,
            fds: vec![
                (fd::RECORD, record.write()?),
                (input::LISTENER, listener),
                (input::STATE, state.try_clone()?),
            ],
            profile: self.profile,
        };
        let pending_io = Box::new(());
        Ok((PreparedBackend { child, pending_io }, stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{Vm, VmSpec};

    #[test]
    fn presses_are_counted_from_the_vmms_start() {
        let vm = Vm::try_from(VmSpec::new("/k")).unwrap();
        let mut button = Button::new(crate::profile::of_button(&vm));
        assert!(button.renew().unwrap().is_none());
        assert_eq!((button.press(), button.press()), (Some(1), Some(2)));
        button.renew().unwrap();
        assert_eq!(button.press(), Some(1));
    }
}
