// SPDX-License-Identifier: Apache-2.0
//! The vmm process: guest memory, vCPUs, interrupt controllers, PCI and the serial port of one VM.
//!
//! The jailer starts it with an open file descriptor for everything it may use; it opens nothing
//! itself. Its threads are the main thread ([`control`]), which serves the supervisor and the
//! console, one thread for each virtio device ([`virtio`]), one for interrupt lines ([`intx`]), one that saves
//! the machine ([`saver`]), and one for each vCPU ([`vcpu`]), which
//! runs the guest and emulates its register accesses.
//!
//! [`start`] goes from the launch record to a running guest, top to bottom.

pub mod arch;
pub mod await_backends;
pub mod boot;
pub mod console;
pub mod control;
pub mod exit;
pub mod intx;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod saver;
pub mod seccomp;
pub mod start;
pub mod state;
pub mod vcpu;
pub mod virtio;

/// The tests that install the filters need the program's allocator: the filters allow only its
/// calls.
#[cfg(test)]
#[global_allocator]
static HEAP: host::heap::Heap = host::heap::Heap;
