// SPDX-License-Identifier: Apache-2.0
//! The machine's devices, as the vmm process sees them. They run on vCPU threads (register
//! accesses) and on the vmm's main thread (input), never wait for anything, and know no KVM: what
//! they need of the machine comes in through the traits of [`bus`], [`interrupt`] and
//! [`guest_event`].
//!
//! Everything a guest can write arrives here. No value of any width at any offset may panic, block
//! or allocate without bound.

pub mod bus;
pub mod guest_event;
pub mod interrupt;
pub mod ioapic;
pub mod legacy;
pub mod pci;
pub mod serial;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtio;
