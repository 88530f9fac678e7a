// SPDX-License-Identifier: Apache-2.0
//! The thread of a supervised backend that handles the supervisor's messages.

use std::io;
use std::sync::Arc;

use ipc::control::{Channel, ToBackend};

use crate::serve::Device;
use crate::spawn_thread;

/// Pings are half a second apart: by this one, the load right after a takeover is over.
const SETTLED_PING: u32 = 4;

/// Starts the thread. It ends the process when the supervisor is gone.
pub(crate) fn answer<D: Device>(control: Arc<Channel>, device: Arc<D>) -> io::Result<()> {
    spawn_thread::spawn("control", move || {
        let mut settled = false;
        // `receive_with` takes a descriptor, though none is expected: the filter allows its call
        // anyway.
        while let Ok(Some((message, _))) = control.receive_with() {
            match message {
                ToBackend::Ping(ping) => {
                    if ping >= SETTLED_PING && !std::mem::replace(&mut settled, true) {
                        host::image::let_go();
                    }
                    device.ping(ping);
                }
                ToBackend::Link(up) => device.set_link(up),
                ToBackend::Press(count) => device.press(count),
                ToBackend::Synced { lost } => device.synced(lost),
            }
        }
        // The supervisor has died or sent a malformed message: end the process.
        std::process::exit(0);
    })
}
