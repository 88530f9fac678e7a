// SPDX-License-Identifier: Apache-2.0
//! Threads beside the workers that the filter finds started: it has no room for what a thread does to
//! start.

use std::io;
use std::sync::{Arc, Barrier};

use crate::serve::STACK_BYTES;

/// Starts a thread that does little, and waits until it runs.
///
/// # Errors
/// When there can be no more threads.
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
