// SPDX-License-Identifier: Apache-2.0
//! Getting a vCPU thread out of the guest: a flag that makes the next KVM_RUN return at once, and a
//! signal that interrupts the one that is running.

use std::thread::JoinHandle;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::run_page::RunPage;

extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // That it was delivered is all it is for.
}

/// Makes the signal interrupt a system call instead of ending the process. Once, before the first
/// vCPU thread.
pub fn prepare() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(SIGRTMIN(), interrupt)
}

/// What kicks one vCPU.
#[derive(Debug)]
pub struct Kick {
    run_page: RunPage,
    thread: JoinHandle<()>,
}

impl Kick {
    pub(super) fn new(run_page: RunPage, thread: JoinHandle<()>) -> Self {
        Self { run_page, thread }
    }

    /// Sends the thread to the gate, wherever it is.
    pub fn kick(&self) {
        self.run_page.request_exit();
        // The thread never ends, so there is always one to signal.
        let _ = self.thread.kill(SIGRTMIN());
    }
}
