// SPDX-License-Identifier: Apache-2.0
//! Spawns threads other than the workers. The seccomp filter does not allow the system calls of a
//! starting thread, so the caller waits until the new thread runs.

use std::io;
use std::sync::{Arc, Barrier};

use crate::serve::STACK_BYTES;

/// Spawns a thread with a small stack, and waits until it runs.
///
/// # Errors
/// If the kernel refuses a new thread.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let started = Arc::new(Barrier::new(2));
    let here = started.clone();
    let thread = std::thread::Builder::new().name(name.into());
    thread.stack_size(STACK_BYTES).spawn(move || {
        here.wait();
        run();
    })?;
    started.wait();
    Ok(())
}
