// SPDX-License-Identifier: Apache-2.0
//! Whether a living backend is hung, waits for slow storage, or does what it should. Pure.
//!
//! Two things tell. Each worker answers a ping in the health page: one that is stopped, or turns in
//! circles, does not. And the vmm samples what the driver waits for: a queue that stands still while
//! the kernel has nothing to do for the backend is not slow, it is forgotten. What the backend says of
//! itself excuses it only as long as it answers pings.

use std::sync::atomic::Ordering::Relaxed;

use ipc::control::QueueSample;
use ipc::health::{BACKPRESSURED, BROKEN, Health, QueueHealth};

const MS_NS: u64 = 1_000_000;
/// How often a ping is sent, or its answer looked for.
const PING_NS: u64 = 500 * MS_NS;
/// So many looks in vain are enough. Looks are counted and not time, so that a host that stood still
/// as a whole does not look like a backend that does.
const LOOKS_MAX: u32 = 4;
/// So many samples in a row without any progress, with nothing to wait for, are enough: two seconds.
const FORGOTTEN_MAX: u32 = 2;
/// So many, with something to wait for, are worth telling.
const SLOW_MIN: u32 = 3;

/// What is to be done about a backend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WatchdogEvent {
    /// Nothing.
    Fine,
    /// It is to be pinged with this number.
    Ping(u32),
    /// It is hung: how that shows.
    Hung(String),
    /// It waits for something: what.
    Slow(String),
    /// It does not any more.
    SlowNoMore,
}

/// What is known of a backend.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    queues: u16,
    ping: u32,
    looks: u32,
    /// When to look, once it is to be pinged at all.
    next_ns: Option<u64>,
    stuck: Vec<QueueProgress>,
    slow: bool,
}

/// A queue as it was at the last sample.
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

    /// It was found fit: from now on it answers pings.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.next_ns.get_or_insert(now_ns);
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// Whether it is known to wait for something.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// Whether the driver waits for anything, as far as the last sample tells.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Whether every worker has answered the last ping.
    pub(crate) fn is_answered(&self, page: &Health) -> bool {
        self.silent(page).is_none()
    }

    /// The number of the next ping, to be sent now. For when the last one was answered.
    pub(crate) fn ask(&mut self, now_ns: u64) -> u32 {
        self.looks = 0;
        self.next_ns = Some(now_ns + PING_NS);
        self.ping = self.ping.wrapping_add(1);
        self.ping
    }

    /// A queue whose worker has not answered the last ping.
    fn silent(&self, page: &Health) -> Option<u16> {
        (0..self.queues).find(|queue| of(page, *queue).heartbeat.load(Relaxed) != self.ping)
    }

    /// The guest stands still: whatever is waited for is waited for anew when it runs again.
    pub(crate) fn rest(&mut self, now_ns: u64) {
        if self.next_ns.is_some() {
            self.next_ns = Some(now_ns + PING_NS);
        }
        self.looks = 0;
        self.stuck.clear();
    }

    /// Time has passed.
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

    /// The vmm tells what the driver waits for. `busy` says of a queue whether the kernel has
    /// something to do for the backend, if that can be seen.
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
            return WatchdogEvent::Hung(format!("queue {queue} has requests that nobody works on"));
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
