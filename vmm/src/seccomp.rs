// SPDX-License-Identifier: Apache-2.0
//! The filters of `seccomp.json`, compiled when the vmm was built: one for the vCPU threads, one for
//! the device threads, one for the main thread. All are installed before the guest runs.
//!
//! A thread that receives descriptors, or that others give descriptors to, has close(2) in its
//! filter: the main thread and the device threads. vCPU threads never own a descriptor.

use host::seccomp::SeccompError;
use ipc::seccomp::Mode;

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// Confines the calling thread as the main thread of a vmm is.
pub fn confine_main(mode: Mode) -> Result<(), SeccompError> {
    MAIN.install(mode)
}

/// Confines the calling thread as a vCPU thread of a vmm is.
pub fn confine_vcpu(mode: Mode) -> Result<(), SeccompError> {
    VCPU.install(mode)
}
