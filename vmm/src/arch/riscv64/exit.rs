// SPDX-License-Identifier: Apache-2.0
//! Exits of KVM_RUN that only RISC-V has: calls of the SBI and accesses to CSRs that KVM passes on.
//! None is answered; KVM has put "not supported", or zero, where the answer belongs.

use ipc::health::HealthPage;
use kvm_bindings::{KVM_EXIT_RISCV_CSR, KVM_EXIT_RISCV_SBI};
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
    match exit {
        VcpuExit::Unsupported(KVM_EXIT_RISCV_SBI | KVM_EXIT_RISCV_CSR) => Handled::Done,
        other => Handled::Unknown(other),
    }
}

/// Whether the guest can make KVM_RUN fail with this error: it accessed a device's registers by an
/// instruction that KVM does not emulate (EOPNOTSUPP), misaligned (EIO), or with a page table outside
/// its memory (EFAULT).
pub fn is_guest_fault(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EIO | libc::EFAULT)
}
