// SPDX-License-Identifier: Apache-2.0
//! One generation of a device's backend: a process that the supervisor believes little.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use ipc::control::{FromBackend, ToBackend};
use ipc::health::{self, Crash};
use nix::sys::signal::Signal;

use crate::death::Death;
use crate::jailer_link::JailerLink;
use crate::process::{Incoming, ManagedProcess};

/// Many times more messages than a backend sends in its life. A backend that sends more must be
/// compromised: it costs the supervisor time on purpose.
const MESSAGES_MAX: usize = 64;

/// A backend that was started and has not been reaped.
#[derive(Debug)]
pub(crate) struct Backend {
    process: ManagedProcess,
    /// How many messages have been read.
    heard: usize,
    /// The supervisor has killed it by [`Self::kill`].
    killed_by_us: Cell<bool>,
}

impl Backend {
    /// A backend with this process.
    pub(crate) fn new(process: ManagedProcess) -> Self {
        Self {
            process,
            heard: 0,
            killed_by_us: Cell::new(false),
        }
    }

    /// Its process.
    pub(crate) fn process(&self) -> &ManagedProcess {
        &self.process
    }

    /// Asks the jailer for its process id, or looks for the answer; returns whether that is
    /// settled. `id` is its device's name, for the log.
    pub(crate) fn identify(&mut self, id: &str, jailer: &JailerLink) -> bool {
        let say = |pid| log::info!(device_id = id; "started a backend, pid {pid}");
        self.process.identify(jailer, say)
    }

    /// Reads its messages; kills it if it sends what no backend sends. Returns whether it said that
    /// the vmm hung up.
    pub(crate) fn listen(&mut self, id: &str) -> bool {
        let mut hung_up = false;
        for incoming in self.process.listen::<FromBackend>() {
            let what = match incoming {
                Incoming::Message(message) if self.heard < MESSAGES_MAX => {
                    self.heard += 1;
                    log::info!(device_id = id; "the backend says {message:?}");
                    hung_up |= message == FromBackend::Hangup;
                    continue;
                }
                Incoming::Message(_) => format!("it has said more than {MESSAGES_MAX} things"),
                Incoming::Malformed(what) => what,
                Incoming::HungUp => continue,
            };
            log::error!(device_id = id; "its backend is killed: {what}");
            self.process.hang_up();
            self.kill();
            break;
        }
        hung_up
    }

    /// Kills it; it must still be reaped.
    pub(crate) fn kill(&self) {
        self.killed_by_us.set(true);
        self.process.kill();
    }

    /// Kills it, if it has not ended already, because the vmm does not use it any more. Its
    /// requests are not to blame.
    pub(crate) fn terminate(&self) {
        self.process.kill();
    }

    /// Whether no request can have caused this death: another process killed the backend, or the
    /// kernel refused its io_uring.
    pub(crate) fn was_killed_externally(&self, death: Death) -> bool {
        let killed = death == Death::Signalled(Signal::SIGKILL) && !self.killed_by_us.get();
        killed || matches!(self.process.crash(), Crash::Engine(_))
    }

    /// How it ended, if it has.
    pub(crate) fn reap(&mut self) -> Option<Death> {
        self.process.reap()
    }

    /// Whether it claims to have completed a request.
    pub(crate) fn has_completed(&self) -> bool {
        let mut queues = self.process.health().queues.iter();
        queues.any(|queue| queue.requests.load(Ordering::Relaxed) != 0)
    }

    /// Sends it a message. If the backend does not read it, it answers no pings either, and its
    /// successor gets the new state.
    fn tell(&self, message: &ToBackend) {
        let _ = self.process.tell(message, None);
    }

    /// Asks its workers for a sign of life.
    pub(crate) fn ping(&self, number: u32) {
        self.tell(&ToBackend::Ping(number));
    }

    /// Tells a NIC's backend whether the link is up.
    pub(crate) fn tell_link(&self, up: bool) {
        self.tell(&ToBackend::Link(up));
    }

    /// Tells a power button's backend how often the button has been pressed.
    pub(crate) fn tell_pressed(&self, count: u32) {
        self.tell(&ToBackend::Press(count));
    }

    /// Tells a disk's backend whether writes were lost, if its version knows the message. False if
    /// its version is not known yet.
    pub(crate) fn tell_synced(&self, lost: bool) -> bool {
        let version = self.process.health().version.load(Ordering::Relaxed);
        if version >= health::KNOWS_SYNCED {
            self.tell(&ToBackend::Synced { lost });
        }
        version != 0
    }
}
