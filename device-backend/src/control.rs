// SPDX-License-Identifier: Apache-2.0
//! The thread of a launched process that answers the supervisor.

use std::io;
use std::sync::Arc;

use ipc::control::{Channel, ToBackend};

use crate::serve::Device;
use crate::spawn_thread;

/// By this ping, pings being half a second apart, whatever comes at once with a takeover is over.
const SETTLED_PING: u32 = 4;

/// Starts it; it ends the process when the supervisor is gone.
pub(crate) fn answer<D: Device>(control: Arc<Channel>, device: Arc<D>) -> io::Result<()> {
    spawn_thread::spawn("control", move || {
        let mut settled = false;
        // The call that could bring a descriptor, though none is expected: the filter has it anyway.
        while let Ok(Some((message, _))) = control.receive_with() {
            match message {
                ToBackend::Ping(ping) => {
                    if ping >= SETTLED_PING && !std::mem::replace(&mut settled, true) {
                        host::image::let_go();
                    }
                    device.ping(ping);
                }
                ToBackend::Link(up) => device.set_link(up),
                ToBackend::Synced { lost } => device.synced(lost),
            }
        }
        // It has died, or talks nonsense: nobody is left who could want this process.
        std::process::exit(0);
    })
}
