// SPDX-License-Identifier: Apache-2.0
//! The architectures whose machines cannot be saved yet: `docs/architectures.md` lists what their state is.

use std::sync::Mutex;

use kvm_ioctls::VcpuFd;

use super::Board;
use crate::kvm::Vm;
use crate::state::{Parts, Writer};

/// Whether machines of this architecture can be saved.
pub const IS_SAVED: bool = false;

/// The state of vCPUs and interrupt controllers is not saved on this architecture.
#[derive(Debug, thiserror::Error)]
#[error(
    "the interrupt controllers of {arch} are not saved yet, so its vmm is replaced only when the guest reboots",
    arch = std::env::consts::ARCH
)]
pub struct MachineStateError;

/// Refuses to save.
pub fn save_machine(
    _: &Vm,
    _: &[&'static Mutex<VcpuFd>],
    _: &Board,
    _: &mut Writer,
) -> Result<(), MachineStateError> {
    Err(MachineStateError)
}

/// Refuses to restore.
pub fn restore_vcpus(_: &Vm, _: &[VcpuFd], _: &Parts) -> Result<(), MachineStateError> {
    Err(MachineStateError)
}

/// Refuses to restore.
pub fn restore_board(_: &Board, _: &Parts) -> Result<(), MachineStateError> {
    Err(MachineStateError)
}
