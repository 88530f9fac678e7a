// SPDX-License-Identifier: Apache-2.0
//! Whether a living backend is hung, waits for slow storage, or works. Pure.
//!
//! There are two signs. Each worker thread answers a ping in the health page: a thread that is
//! stopped or loops does not. And the vmm samples what the driver waits for: if a queue makes no
//! progress while the kernel has nothing to do for the backend, the backend is not slow but has
//! forgotten a request. What the backend claims excuses it only as long as it answers pings.

use std::sync::atomic::Ordering::Relaxed;

use ipc::control::QueueSample;
use ipc::health::{BACKPRESSURED, BROKEN, Health, QueueHealth};

const MS_NS: u64 = 1_000_000;
/// How often to send a ping or to look for its answer.
const PING_NS: u64 = 500 * MS_NS;
/// So many looks without an answer mean that the backend hangs. It counts looks and not time, so
/// that a backend does not look hung because the whole host stood still.
const LOOKS_MAX: u32 = 4;
/// So many samples in a row without progress, and with nothing to wait for, mean a hang: two
/// seconds.
const FORGOTTEN_MAX: u32 = 2;
/// So many, with something to wait for, are reported as slow.
const SLOW_MIN: u32 = 3;

/// What to do about a backend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WatchdogEvent {
    /// Nothing.
    Fine,
    /// Ping it with this number.
    Ping(u32),
    /// It is hung: the evidence.
    Hung(String),
    /// It waits for something: the evidence.
    Slow(String),
    /// It does not wait any more.
    SlowNoMore,
}

/// What is known about a backend.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    queues: u16,
    ping: u32,
    looks: u32,
    /// When to look next, once it is connected.
    next_ns: Option<u64>,
    stuck: Vec<QueueProgress>,
    slow: bool,
}

/// The progress of a queue at the last sample.
#[derive(Debug, Clone, Copy)]
struct QueueProgress {
    queue: u16,
    used: u16,
    fetched: u32,
    forgotten: u32,
    waited: u32,
}

impl Watchdog {
    /// For a new backend with so many queues.
    pub(crate) fn new(queues: u16) -> Self {
        Self {
            queues,
            ..Self::default()
        }
    }

    /// The vmm has connected to the backend: from now on it must answer pings.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.next_ns.get_or_insert(now_ns);
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// Whether it is known to wait for something.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// Whether the driver waits for anything, according to the last sample.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Whether every worker has answered the last ping.
    pub(crate) fn is_answered(&self, page: &Health) -> bool {
        self.silent(page).is_none()
    }

    /// The number of the next ping, which the caller sends now. Call it when the last ping was
    /// answered.
    pub(crate) fn ask(&mut self, now_ns: u64) -> u32 {
        self.looks = 0;
        self.next_ns = Some(now_ns + PING_NS);
        self.ping = self.ping.wrapping_add(1);
        self.ping
    }

    /// A queue whose worker thread has not answered the last ping.
    fn silent(&self, page: &Health) -> Option<u16> {
        (0..self.queues).find(|queue| of(page, *queue).heartbeat.load(Relaxed) != self.ping)
    }

    /// The guest is paused: all counts start anew when it runs again.
    pub(crate) fn rest(&mut self, now_ns: u64) {
        if self.next_ns.is_some() {
            self.next_ns = Some(now_ns + PING_NS);
        }
        self.looks = 0;
        self.stuck.clear();
    }

    /// Sends the next ping, or looks for the answer to the last one.
    pub(crate) fn tick(&mut self, page: &Health, now_ns: u64) -> WatchdogEvent {
        if self.next_ns.is_none_or(|next| now_ns < next) {
            return WatchdogEvent::Fine;
        }
        self.next_ns = Some(now_ns + PING_NS);
        let Some(queue) = self.silent(page) else {
            return WatchdogEvent::Ping(self.ask(now_ns));
        };
        self.looks += 1;
        match self.looks >= LOOKS_MAX {
            true => WatchdogEvent::Hung(format!("queue {queue} shows no heartbeat")),
            false => WatchdogEvent::Fine,
        }
    }

    /// Handles the vmm's samples of what the driver waits for. `busy` tells whether the kernel has
    /// something to do for a queue of the backend, if that can be seen.
    pub(crate) fn sample(
        &mut self,
        samples: &[QueueSample],
        page: &Health,
        busy: impl Fn(u16) -> Option<bool>,
    ) -> WatchdogEvent {
        let mut stuck = Vec::with_capacity(samples.len());
        for sample in samples.iter().filter(|s| s.queue < self.queues) {
            let claims = of(page, sample.queue);
            let old = self.stuck.iter().find(|old| old.queue == sample.queue);
            stuck.push(compare(old, sample, claims, busy(sample.queue)));
        }
        self.stuck = stuck;
        if let Some(queue) = self.stuck.iter().find(|q| q.forgotten >= FORGOTTEN_MAX) {
            let queue = queue.queue;
            return WatchdogEvent::Hung(format!(
                "queue {queue} has requests that no thread works on"
            ));
        }
        let slow = self.stuck.iter().find(|q| q.waited >= SLOW_MIN);
        let was = std::mem::replace(&mut self.slow, slow.is_some());
        match (was, slow) {
            (false, Some(slow)) => {
                let (queue, seconds) = (slow.queue, slow.waited);
                WatchdogEvent::Slow(format!(
                    "nothing completed on queue {queue} for {seconds} s"
                ))
            }
            (true, None) => WatchdogEvent::SlowNoMore,
            _ => WatchdogEvent::Fine,
        }
    }
}

fn of(page: &Health, queue: u16) -> &QueueHealth {
    &page.queues[usize::from(queue) % ipc::health::QUEUES]
}

fn compare(
    old: Option<&QueueProgress>,
    sample: &QueueSample,
    claims: &QueueHealth,
    busy: Option<bool>,
) -> QueueProgress {
    let mut now = QueueProgress {
        queue: sample.queue,
        used: sample.used,
        fetched: claims.last_avail.load(Relaxed),
        forgotten: 0,
        waited: 0,
    };
    let Some(old) = old.filter(|old| old.used == now.used && old.fetched == now.fetched) else {
        return now;
    };
    let excuses = BACKPRESSURED | BROKEN;
    let excused = claims.flags.load(Relaxed) & excuses != 0;
    let in_flight = claims.in_flight.load(Relaxed) != 0;
    if excused {
        return now;
    }
    match busy.unwrap_or(in_flight) {
        true => now.waited = old.waited + 1,
        false => now.forgotten = old.forgotten + 1,
    }
    now
}

#[cfg(test)]
mod tests;
