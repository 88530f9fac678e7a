// SPDX-License-Identifier: Apache-2.0
//! The machine's devices in the vmm process. They run on vCPU threads (register accesses) and on
//! the vmm's main thread (input), never block, and do not depend on KVM: the machine implements the
//! traits of [`bus`], [`interrupt`] and [`guest_event`] for them.
//!
//! Everything a guest can write arrives here. No value of any width at any offset may make this
//! code panic, block or allocate without bound.

pub mod arm;
pub mod bus;
pub mod guest_event;
pub mod interrupt;
pub mod ioapic;
pub mod legacy;
pub mod pci;
pub mod riscv;
pub mod serial;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtio;
