// SPDX-License-Identifier: Apache-2.0
//! The thread of a launched process that answers the supervisor.

use std::io;
use std::sync::{Arc, Barrier};

use launch::control::{Channel, ToBackend};

use crate::serve::{Device, STACK_BYTES};

/// Starts it; it ends the process when the supervisor is gone.
pub(crate) fn answer<D: Device>(control: Arc<Channel>, device: Arc<D>) -> io::Result<()> {
    let started = Arc::new(Barrier::new(2));
    let here = started.clone();
    let run = move || {
        here.wait();
        // The call that could bring a descriptor, though none is expected: the filter has it anyway.
        while let Ok(Some((message, _))) = control.receive_with() {
            match message {
                ToBackend::Ping(ping) => device.ping(ping),
                ToBackend::Link(up) => device.set_link(up),
            }
        }
        // It has died, or talks nonsense: nobody is left who could want this process.
        std::process::exit(0);
    };
    let thread = std::thread::Builder::new().name("control".into());
    thread.stack_size(STACK_BYTES).spawn(run)?;
    // The filter has no room for what a thread does to start.
    started.wait();
    Ok(())
}
