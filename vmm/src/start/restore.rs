// SPDX-License-Identifier: Apache-2.0
//! A vmm that follows another: the state that it takes up, and the thread that will save its own.

use std::sync::{Arc, Mutex};

use ipc::fd;
use ipc::record::VmmRecord;
use kvm_ioctls::VcpuFd;

use super::{Hardware, StartError};
use crate::arch::{self, Board};
use crate::await_backends::Patience;
use crate::kvm::Vm;
use crate::saver::{self, Functions, Machine, SaveError, Saver};
use crate::state::Parts;
use crate::virtio::Device;

/// The vCPUs, which threads that run them share with the thread that saves them.
pub(super) type Vcpus = Vec<&'static Mutex<VcpuFd>>;

/// Leaks vCPUs: kicks write to their kvm_run pages until the process ends.
pub(super) fn leak(vcpus: Vec<VcpuFd>) -> Vcpus {
    let leak = |vcpu| &*Box::leak(Box::new(Mutex::new(vcpu)));
    vcpus.into_iter().map(leak).collect()
}

/// Reads the state that the vmm before has left, if this one is to take it up.
pub(super) fn take_state(record: &VmmRecord) -> Result<Option<Parts>, StartError> {
    if !record.restores {
        return Ok(None);
    }
    let parts = Parts::read_from(fd::claim(fd::vmm::STATE)?, record.machine);
    Ok(Some(parts.map_err(SaveError::from)?))
}

/// Gives vCPUs, board and devices the state that they had in the vmm before. Nothing runs yet.
pub(super) fn restore(
    parts: &Parts,
    of: &Hardware,
    board: &Board,
    functions: &Functions,
) -> Result<(), StartError> {
    arch::restore_vcpus(&of.vm, &of.vcpus, parts).map_err(SaveError::from)?;
    arch::restore_board(board, parts).map_err(SaveError::from)?;
    Ok(saver::restore_functions(functions, parts)?)
}

/// Starts the thread that saves the machine.
pub(super) fn start_saver(
    record: &VmmRecord,
    (vm, vcpus, functions): (Arc<Vm>, Vcpus, Functions),
    board: &Arc<Board>,
    devices: &[Device],
) -> Result<Saver, StartError> {
    let machine = Machine {
        version: record.machine,
        vm,
        vcpus,
        board: Arc::clone(board),
        functions,
        devices: devices.iter().map(Device::named).collect(),
    };
    let saver = Saver::start(machine, record.seccomp);
    saver.map_err(|e| StartError::Host("start a thread", e))
}

/// How long the vmm waits for its backends.
pub(super) fn patience(record: &VmmRecord) -> Patience {
    match record.rebooted || record.restores {
        true => Patience::Endless,
        false => Patience::FirstStart,
    }
}
