// SPDX-License-Identifier: Apache-2.0
//! The vmm process: guest memory, vCPUs, interrupt controllers, PCI and the serial port of one VM.
//!
//! It is started by the jailer with everything it may use as open file descriptors and never opens
//! anything itself. Its threads are the main thread ([`control`]), which talks to the supervisor and
//! the console, and one thread for each vCPU ([`vcpu`]), which runs the guest and answers its
//! register accesses.
//!
//! [`start`] goes from the launch record to a running guest, top to bottom.

pub mod arch;
pub mod await_backends;
pub mod boot;
pub mod console;
pub mod control;
pub mod exit;
pub mod kvm;
pub mod memory;
pub mod seccomp;
pub mod start;
pub mod vcpu;
pub mod virtio;

/// Tests that install the filters allocate as the program does: the filters know no other heap's calls.
#[cfg(test)]
#[global_allocator]
static HEAP: host::heap::Heap = host::heap::Heap;
