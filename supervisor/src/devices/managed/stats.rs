// SPDX-License-Identifier: Apache-2.0
//! What a device has done, summed over all its backends: each counts in its own health page, which
//! ends with it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use ipc::health::{BACKPRESSURED, BROKEN, Drops, Health, QueueHealth};
use spec::api::{DeviceKind, DeviceStats, QueueStats, Traffic};

use super::{ManagedDevice, Phase};

/// What the dead backends of a device have done.
#[derive(Debug, Default)]
pub(super) struct StatsCollector {
    queues: Vec<Traffic>,
    dropped: Dropped,
    deaths: u64,
}

/// Packets that a NIC's backends have dropped, by reason.
type Dropped = BTreeMap<String, u64>;

impl StatsCollector {
    /// For a device with so many queues.
    pub(super) fn new(queues: u16) -> Self {
        Self {
            queues: vec![Traffic::default(); usize::from(queues)],
            dropped: Dropped::new(),
            deaths: 0,
        }
    }

    /// Adds the counters of a backend that has ended; `died` if it did so by itself.
    pub(super) fn ended(&mut self, health: &Health, died: bool) {
        self.deaths += u64::from(died);
        for (past, queue) in self.queues.iter_mut().zip(&health.queues) {
            *past = past.plus(traffic(queue));
        }
        add(&mut self.dropped, &health.drops);
    }

    /// All dropped packets, including those of the living backend.
    fn dropped(&self, health: Option<&Health>) -> Dropped {
        let mut dropped = self.dropped.clone();
        if let Some(health) = health {
            add(&mut dropped, &health.drops);
        }
        dropped
    }

    /// The counters of all queues, including those of the living backend.
    fn queues(&self, health: Option<&Health>, now_ns: u64) -> Vec<QueueStats> {
        let now = |index| Some(queue(health?.queues.get(index)?, now_ns));
        let all = self.queues.iter().enumerate().map(|(index, past)| {
            let now = now(index).unwrap_or_default();
            QueueStats {
                traffic: now.traffic.plus(*past),
                ..now
            }
        });
        all.collect()
    }
}

impl ManagedDevice {
    /// The guest is paused: the backend does not count as hung for now.
    pub(crate) fn rest(&mut self, now_ns: u64) {
        if let Phase::Alive(life) = &mut self.phase {
            life.watchdog.rest(now_ns);
        }
    }

    /// For the API; `None` if the device has no traffic to count.
    pub(crate) fn stats(&self, now_ns: u64) -> Option<DeviceStats> {
        let kind = self.kind.kind()?;
        let health = match &self.phase {
            Phase::Alive(life) => Some(life.backend.process().health()),
            _ => None,
        };
        let queues = self.stats.queues(health, now_ns);
        let traffic = queues.iter().map(|queue| queue.traffic);
        Some(DeviceStats {
            id: self.kind.id().into(),
            kind,
            restarts: self.stats.deaths,
            total: traffic.fold(Traffic::default(), Traffic::plus),
            queues,
            dropped: match kind {
                DeviceKind::Disk => Dropped::new(),
                DeviceKind::Nic => self.stats.dropped(health),
            },
        })
    }
}

/// A backend can write any count: the sum must not overflow.
fn add(dropped: &mut Dropped, drops: &Drops) {
    for (reason, count) in drops.by_reason() {
        let sum = dropped.entry(reason.into()).or_default();
        *sum = sum.saturating_add(count);
    }
}

fn traffic(queue: &QueueHealth) -> Traffic {
    Traffic {
        requests: queue.requests.load(Relaxed),
        errors: queue.errors.load(Relaxed),
        read_bytes: queue.read_bytes.load(Relaxed),
        written_bytes: queue.written_bytes.load(Relaxed),
    }
}

fn queue(queue: &QueueHealth, now_ns: u64) -> QueueStats {
    let flags = queue.flags.load(Relaxed);
    let oldest_ns = queue.oldest_ns.load(Relaxed);
    QueueStats {
        traffic: traffic(queue),
        in_flight: queue.in_flight.load(Relaxed),
        oldest_age_ns: match oldest_ns {
            0 => 0,
            _ => now_ns.saturating_sub(oldest_ns),
        },
        backpressured: flags & BACKPRESSURED != 0,
        broken: flags & BROKEN != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::health::{self, HealthPage};

    fn page(requests: u64, written_bytes: u64) -> HealthPage {
        let page = HealthPage::map(health::create().unwrap()).unwrap();
        page.drops.dhcp.store(requests, Relaxed);
        page.queues[1].requests.store(requests, Relaxed);
        page.queues[1].written_bytes.store(written_bytes, Relaxed);
        page
    }

    #[test]
    fn counters_go_on_where_the_backend_before_has_ended() {
        let mut stats = StatsCollector::new(2);
        stats.ended(&page(3, 512), true);
        stats.ended(&page(4, 512), false);
        let living = page(5, 1);
        living.queues[1].in_flight.store(2, Relaxed);
        living.queues[1].oldest_ns.store(60, Relaxed);
        living.queues[1].flags.store(BROKEN, Relaxed);
        let [first, second] = stats.queues(Some(&living), 100)[..] else {
            unreachable!("there are two queues");
        };
        assert_eq!(first, QueueStats::default());
        assert_eq!(
            (second.traffic.requests, second.traffic.written_bytes),
            (12, 1025)
        );
        assert_eq!((second.in_flight, second.oldest_age_ns), (2, 40));
        assert!(second.broken && !second.backpressured);
        assert_eq!(stats.deaths, 1);
        let dropped = stats.dropped(Some(&living));
        assert_eq!((dropped["dhcp"], dropped["router"]), (12, 0));
    }

    #[test]
    fn counters_of_nobody_are_those_of_the_past_and_nothing_is_in_flight() {
        let mut stats = StatsCollector::new(2);
        stats.ended(&page(3, 512), true);
        let queues = stats.queues(None, 100);
        assert_eq!((queues[1].traffic.requests, queues[1].in_flight), (3, 0));
        assert_eq!(stats.dropped(None)["dhcp"], 3);
    }

    #[test]
    fn counters_that_lie_do_not_overflow() {
        let mut stats = StatsCollector::new(2);
        stats.ended(&page(u64::MAX, u64::MAX), true);
        let living = page(u64::MAX, 1);
        let queues = stats.queues(Some(&living), 0);
        assert_eq!(queues[1].traffic.requests, u64::MAX);
        assert_eq!(stats.dropped(Some(&living))["dhcp"], u64::MAX);
    }
}
