// SPDX-License-Identifier: Apache-2.0
//! What a driver does to a device's registers runs on vCPU threads, behind their filter.

use std::sync::mpsc::channel;

use anyhow::{Context as _, Result};
use launch::seccomp::Mode;

/// Does something behind the filter of a vCPU thread, and waits for it. The thread cannot end: nothing
/// in the filter would let it.
pub(crate) fn run(seccomp: Mode, job: impl FnOnce() + Send + 'static) -> Result<()> {
    let (done, waits) = channel();
    std::thread::spawn(move || {
        let confined = vmm::seccomp::confine_vcpu(seccomp);
        if confined.is_ok() {
            job();
        }
        let _ = done.send(confined);
        loop {
            std::thread::park();
        }
    });
    Ok(waits.recv().context("the thread of a vCPU has ended")??)
}
