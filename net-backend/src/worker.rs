// SPDX-License-Identifier: Apache-2.0
//! One pair of queues and the thread that serves it. A kick, the tap or its wake event wakes the
//! thread; it serves both directions, and the control queue if it owns that, until there is nothing
//! to do.
//!
//! vhost-user-backend's event loop calls `run` on the worker thread. It never waits for a peer, and
//! nothing that a guest does ends the thread. The tap is watched for edges only: while the guest
//! has no buffers, frames that wait in the tap do not wake the thread.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::polling::Polling;
use device_backend::progress;
use device_backend::queue_state::{Change, QueueFault, QueueState};
use device_backend::vring::Vring;
use ipc::health::{BROKEN, QueueHealth, UNPLUGGED};

use crate::config::Role;
use crate::ctrl_queue::CtrlQueue;
use crate::receive::Receiver;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::transmit::Transmitter;

/// The most queues of one worker: receive, transmit, control.
const SLOTS: usize = 3;

/// How far a worker thread has followed the frontend.
pub type Progress = progress::Progress<SLOTS>;

/// While polling for work, the tap is read, by a system call, only this often.
const TAP_EVERY: u32 = 4;

/// One pair of queues.
#[derive(Debug)]
pub struct Worker {
    pair: u16,
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    settings_generation: u32,
    receiver: Receiver,
    transmitter: Transmitter,
    ctrl_queue: CtrlQueue,
    /// The generations of the rings that were followed.
    followed: [Option<u32>; SLOTS],
    polling: Polling,
}

impl Worker {
    /// The worker of a pair.
    pub fn new(pair: u16, shared: Arc<Shared>, poll_us: u32) -> Self {
        let (settings_generation, settings) = shared.settings();
        Self {
            pair,
            shared,
            settings,
            settings_generation,
            receiver: Receiver::default(),
            transmitter: Transmitter::default(),
            ctrl_queue: CtrlQueue::default(),
            followed: [None; SLOTS],
            polling: Polling::new(poll_us),
        }
    }

    /// The tap's queue of the pair.
    pub fn tap(&self) -> BorrowedFd<'_> {
        self.shared.tap(self.pair)
    }

    /// Serves the pair until there is nothing to do. `vrings` are its queues: receive, transmit,
    /// and perhaps control.
    pub fn run(&mut self, vrings: &[Vring], progress: &Progress) {
        // Whatever woke the thread, the tap may have room again.
        self.transmitter.unblock();
        loop {
            let ping = self.shared.ping.load(Relaxed);
            for queue in [2 * self.pair, 2 * self.pair + 1] {
                self.shared.health(queue).heartbeat.store(ping, Relaxed);
            }
            self.with_settings(|worker| worker.follow(vrings, progress));
            if self.command() {
                // A command must take effect from the next frame on.
                continue;
            }
            let worked = self.receive() | self.transmit();
            if !worked && !self.look_for_work(vrings) && self.may_sleep() {
                return;
            }
        }
    }

    /// Calls `follow` with the present settings, and again if they have changed meanwhile. The
    /// frontend first sets the features and then starts the rings: a ring that was found running
    /// must not be served with the settings of before, for instance with another header length.
    fn with_settings(&mut self, mut follow: impl FnMut(&mut Self)) {
        loop {
            if self.settings_generation != self.shared.settings_generation() {
                (self.settings_generation, self.settings) = self.shared.settings();
            }
            follow(self);
            if self.settings_generation == self.shared.settings_generation() {
                return;
            }
        }
    }

    /// Follows the frontend's and the driver's changes of the rings.
    fn follow(&mut self, vrings: &[Vring], progress: &Progress) {
        let (mut roles, mut followed) = ([Role::None; SLOTS], self.followed);
        for (slot, vring) in vrings.iter().enumerate().take(SLOTS) {
            let queue = self.shared.queue_of(self.pair, slot);
            let role = self.shared.nic.role(queue, self.settings.features);
            roles[slot] = role;
            followed[slot] = match role {
                Role::Receive => {
                    let outcome = self.receiver.follow(vring, &self.shared.memory);
                    if self.note_change(outcome, Role::Receive) == Change::Moved {
                        let running = self.receiver.queue.is_running();
                        self.shared.set_pair_running(self.pair, running);
                    }
                    self.receiver.queue.seen_ring()
                }
                Role::Transmit => {
                    let outcome = self.transmitter.queue.follow(vring, &self.shared.memory, 0);
                    self.note_change(outcome, Role::Transmit);
                    self.transmitter.queue.seen_ring()
                }
                Role::Control => {
                    let outcome = self.ctrl_queue.queue.follow(vring, &self.shared.memory, 0);
                    if self.note_change(outcome, Role::Control) == Change::Moved {
                        let running = self.ctrl_queue.queue.is_running();
                        self.shared.set_control_running(running);
                    }
                    self.ctrl_queue.queue.seen_ring()
                }
                Role::None => Some(vring.generation()),
            };
        }
        self.leave_all_but(roles);
        if followed != self.followed {
            self.followed = followed;
            progress.settle(followed);
        }
    }

    /// Stops serving roles that no queue has any more.
    fn leave_all_but(&mut self, roles: [Role; SLOTS]) {
        if !roles.contains(&Role::Receive) && self.receiver.queue.is_running() {
            self.receiver.leave();
        }
        if !roles.contains(&Role::Transmit) && self.transmitter.queue.is_running() {
            self.transmitter.queue.leave();
        }
        if !roles.contains(&Role::Control) && self.ctrl_queue.queue.is_running() {
            self.ctrl_queue.queue.leave();
        }
    }

    fn command(&mut self) -> bool {
        let outcome = self.ctrl_queue.run(self.settings.indirect, &self.shared);
        self.outcome(outcome, Role::Control)
    }

    fn receive(&mut self) -> bool {
        let shared = &self.shared;
        let (tap, health) = (shared.tap(self.pair), shared.health(2 * self.pair));
        let outcome = self.receiver.run(tap, &self.settings, shared, health);
        // The first queue is always in use: if it finds no tap, the tap was deleted.
        if self.pair == 0 && self.receiver.is_unplugged() {
            health.flags.fetch_or(UNPLUGGED, Relaxed);
        }
        self.outcome(outcome, Role::Receive)
    }

    fn transmit(&mut self) -> bool {
        let shared = &self.shared;
        let (tap, health) = (shared.tap(self.pair), shared.health(2 * self.pair + 1));
        let outcome = self.transmitter.run(tap, &self.settings, shared, health);
        self.outcome(outcome, Role::Transmit)
    }

    /// Polls for work for a short time; returns whether there is or was any.
    fn look_for_work(&mut self, vrings: &[Vring]) -> bool {
        if !self.receiver.queue.is_running() && !self.transmitter.queue.is_running() {
            return false;
        }
        let Self {
            receiver,
            transmitter,
            polling,
            settings,
            shared,
            followed,
            ..
        } = self;
        let (tap, health) = (shared.tap(self.pair), shared.health(2 * self.pair));
        let generation = self.settings_generation;
        let mut looks = 0_u32;
        let mut fault = None;
        let found = polling.look(|| {
            looks = looks.wrapping_add(1);
            let changed = shared.settings_generation() != generation
                || vrings
                    .iter()
                    .zip(followed.iter())
                    .any(|(vring, seen)| *seen != Some(vring.generation()));
            if changed || transmitter.is_ready() {
                return true;
            }
            if !looks.is_multiple_of(TAP_EVERY) {
                return false;
            }
            match receiver.run(tap.as_fd(), settings, shared, health) {
                Ok(worked) => worked,
                Err(e) => {
                    fault = Some(e);
                    true
                }
            }
        });
        if let Some(fault) = fault {
            self.outcome(Err(fault), Role::Receive);
        }
        found
    }

    /// Enables kicks where they are needed; returns whether there is still nothing to do after
    /// that.
    fn may_sleep(&mut self) -> bool {
        let idle = [
            self.receiver.may_sleep(),
            self.transmitter.may_sleep(),
            self.ctrl_queue.may_sleep(),
        ];
        idle == [true; 3]
    }

    fn note_change(&mut self, outcome: Result<Change, QueueFault>, role: Role) -> Change {
        match outcome {
            Ok(Change::None) => Change::None,
            Ok(Change::Moved) => {
                if let Some(health) = self.health(role) {
                    health.flags.fetch_and(!BROKEN, Relaxed);
                }
                Change::Moved
            }
            Err(e) => {
                self.report(&e, role);
                Change::Moved
            }
        }
    }

    /// A guest that broke a queue cannot use it until it resets the device.
    fn outcome(&mut self, outcome: Result<bool, QueueFault>, role: Role) -> bool {
        match outcome {
            Ok(worked) => worked,
            Err(e) => {
                self.report(&e, role);
                let queue: &mut QueueState = match role {
                    Role::Receive => &mut self.receiver.queue,
                    Role::Transmit => &mut self.transmitter.queue,
                    Role::Control | Role::None => &mut self.ctrl_queue.queue,
                };
                queue.give_up();
                true
            }
        }
    }

    fn report(&self, fault: &QueueFault, role: Role) {
        log::error!(queue = self.pair; "{role:?}: {}", host::log::chain(fault));
        if let Some(health) = self.health(role) {
            health.flags.fetch_or(BROKEN, Relaxed);
        }
    }

    fn health(&self, role: Role) -> Option<&QueueHealth> {
        match role {
            Role::Receive => Some(self.shared.health(2 * self.pair)),
            Role::Transmit => Some(self.shared.health(2 * self.pair + 1)),
            Role::Control | Role::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Nic;
    use ipc::health::HealthPage;
    use ipc::record::Guard;

    #[test]
    fn settings_that_change_while_rings_are_followed_hold_for_them() {
        let page = HealthPage::map(ipc::health::create().unwrap()).unwrap();
        let nic = Nic {
            mac: None,
            mtu: None,
            pairs: 1,
            queue_size: 256,
            uso: false,
            guard: Guard::default(),
        };
        let shared = Shared::new(nic, vec![], None, true, Box::leak(Box::new(page)));
        let mut worker = Worker::new(0, shared.clone(), 0);
        let features = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
        let mut seen = Vec::new();
        worker.with_settings(|worker| {
            seen.push(worker.settings.header_bytes);
            if seen.len() == 1 {
                shared.set_features(features);
            }
        });
        assert_eq!(seen, [10, 12]);
    }
}
