// SPDX-License-Identifier: Apache-2.0
//! The exits of KVM_RUN that only x86 has: port I/O, and EOIs of interrupts that the IOAPIC sent.
//! Runs on vCPU threads.

use std::sync::atomic::Ordering;

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

/// Handles an exit. `port_width` is the width of a port access in bytes.
pub fn handle<'a>(
    exit: VcpuExit<'a>,
    port_width: usize,
    board: &Board,
    health: &HealthPage,
) -> Handled<'a> {
    match exit {
        VcpuExit::IoOut(port, data) => {
            health.pio_exits.fetch_add(1, Ordering::Relaxed);
            for item in data.chunks(port_width) {
                board.ports().write(u64::from(port), item);
            }
        }
        VcpuExit::IoIn(port, data) => {
            health.pio_exits.fetch_add(1, Ordering::Relaxed);
            for item in data.chunks_mut(port_width) {
                board.ports().read(u64::from(port), item);
            }
        }
        VcpuExit::IoapicEoi(vector) => board.end_of_interrupt(vector),
        other => return Handled::Unknown(other),
    }
    Handled::Done
}

/// Whether the guest can make KVM_RUN fail with this error.
pub fn is_guest_fault(_errno: i32) -> bool {
    false
}
