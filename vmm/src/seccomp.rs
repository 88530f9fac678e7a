// SPDX-License-Identifier: Apache-2.0
//! The filters of `seccomp.json`, compiled when the vmm was built: one each for the vCPU threads,
//! the device threads, the thread for interrupt lines, the thread that saves the machine and the main
//! thread. All are installed before the guest runs.
//!
//! The filters of the main thread and the device threads allow close(2), because they receive
//! descriptors from other processes or threads. vCPU threads never own a descriptor.

use host::seccomp::SeccompError;
use ipc::seccomp::Mode;

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// Installs the main thread's filter in the calling thread.
pub fn confine_main(mode: Mode) -> Result<(), SeccompError> {
    MAIN.install(mode)
}

/// Installs the filter of the thread for interrupt lines in the calling thread.
pub fn confine_intx(mode: Mode) -> Result<(), SeccompError> {
    INTX.install(mode)
}

/// Installs the filter of the thread that saves the machine in the calling thread.
pub fn confine_state(mode: Mode) -> Result<(), SeccompError> {
    STATE.install(mode)
}

/// Installs the vCPU threads' filter in the calling thread.
pub fn confine_vcpu(mode: Mode) -> Result<(), SeccompError> {
    VCPU.install(mode)
}
