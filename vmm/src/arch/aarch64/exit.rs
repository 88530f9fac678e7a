// SPDX-License-Identifier: Apache-2.0
//! Exits of KVM_RUN that only this architecture has: none. Power-off, reset and further processors are
//! PSCI calls, which KVM handles or reports as system events.

use ipc::health::HealthPage;
use kvm_ioctls::VcpuExit;

use super::board::Board;

/// What became of an exit.
#[derive(Debug)]
pub enum Handled<'a> {
    /// It is handled, and the guest can go on.
    Done,
    /// It is none of this architecture's own.
    Unknown(VcpuExit<'a>),
}

/// Handles an exit.
pub fn handle<'a>(exit: VcpuExit<'a>, _: usize, _: &Board, _: &HealthPage) -> Handled<'a> {
    Handled::Unknown(exit)
}

/// Whether the guest can make KVM_RUN fail with this error. ENOSYS: it accessed a device's registers
/// by an instruction whose operands the processor does not report (Documentation/virt/kvm/api.rst,
/// KVM_EXIT_ARM_NISV).
pub fn is_guest_fault(errno: i32) -> bool {
    errno == libc::ENOSYS
}
