// SPDX-License-Identifier: Apache-2.0
//! Kicks a vCPU thread out of the guest: a flag makes the next KVM_RUN return immediately, and a
//! signal interrupts the current one.

use std::thread::JoinHandle;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::run_page::RunPage;

extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // The delivery alone interrupts KVM_RUN.
}

/// Installs a handler, so that the signal interrupts a system call instead of killing the process.
/// Call it once, before the first vCPU thread starts.
pub fn prepare() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(SIGRTMIN(), interrupt)
}

/// Kicks one vCPU.
#[derive(Debug)]
pub struct Kick {
    run_page: RunPage,
    thread: JoinHandle<()>,
}

impl Kick {
    pub(super) fn new(run_page: RunPage, thread: JoinHandle<()>) -> Self {
        Self { run_page, thread }
    }

    /// Makes the thread leave the guest, or not enter it, and go to the gate.
    pub fn kick(&self) {
        self.run_page.request_exit();
        // The thread never ends, so the signal always has a target.
        let _ = self.thread.kill(SIGRTMIN());
    }
}
