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
pub(crate) enum Finding {
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
pub(crate) struct Watch {
    queues: u16,
    ping: u32,
    looks: u32,
    /// When to look, once it is to be pinged at all.
    next_ns: Option<u64>,
    stuck: Vec<Stuck>,
    slow: bool,
}

/// A queue as it was at the last sample.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    queue: u16,
    used: u16,
    fetched: u32,
    forgotten: u32,
    waited: u32,
}

impl Watch {
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
    pub(crate) fn tick(&mut self, page: &Health, now_ns: u64) -> Finding {
        if self.next_ns.is_none_or(|next| now_ns < next) {
            return Finding::Fine;
        }
        self.next_ns = Some(now_ns + PING_NS);
        let Some(queue) = self.silent(page) else {
            return Finding::Ping(self.ask(now_ns));
        };
        self.looks += 1;
        match self.looks >= LOOKS_MAX {
            true => Finding::Hung(format!("queue {queue} shows no heartbeat")),
            false => Finding::Fine,
        }
    }

    /// The vmm tells what the driver waits for. `busy` says of a queue whether the kernel has
    /// something to do for the backend, if that can be seen.
    pub(crate) fn sample(
        &mut self,
        samples: &[QueueSample],
        page: &Health,
        busy: impl Fn(u16) -> Option<bool>,
    ) -> Finding {
        let mut stuck = Vec::with_capacity(samples.len());
        for sample in samples.iter().filter(|s| s.queue < self.queues) {
            let claims = of(page, sample.queue);
            let old = self.stuck.iter().find(|old| old.queue == sample.queue);
            stuck.push(compare(old, sample, claims, busy(sample.queue)));
        }
        self.stuck = stuck;
        if let Some(queue) = self.stuck.iter().find(|q| q.forgotten >= FORGOTTEN_MAX) {
            let queue = queue.queue;
            return Finding::Hung(format!("queue {queue} has requests that nobody works on"));
        }
        let slow = self.stuck.iter().find(|q| q.waited >= SLOW_MIN);
        let was = std::mem::replace(&mut self.slow, slow.is_some());
        match (was, slow) {
            (false, Some(slow)) => {
                let (queue, seconds) = (slow.queue, slow.waited);
                Finding::Slow(format!(
                    "nothing completed on queue {queue} for {seconds} s"
                ))
            }
            (true, None) => Finding::SlowNoMore,
            _ => Finding::Fine,
        }
    }
}

fn of(page: &Health, queue: u16) -> &QueueHealth {
    &page.queues[usize::from(queue) % ipc::health::QUEUES]
}

fn compare(
    old: Option<&Stuck>,
    sample: &QueueSample,
    claims: &QueueHealth,
    busy: Option<bool>,
) -> Stuck {
    let mut now = Stuck {
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
mod tests {
    use super::*;
    use ipc::health::HealthPage;

    fn page() -> HealthPage {
        HealthPage::map(ipc::health::create().unwrap()).unwrap()
    }

    fn waits() -> [QueueSample; 1] {
        [QueueSample {
            queue: 0,
            avail: 5,
            used: 2,
        }]
    }

    #[test]
    fn worker_that_answers_is_pinged_again_and_again() {
        let (page, mut watch) = (page(), Watch::new(2));
        assert_eq!(watch.tick(&page, 0), Finding::Fine, "not connected yet");
        watch.begin(0);
        for round in 1..100 {
            let now_ns = u64::from(round) * PING_NS;
            assert_eq!(watch.tick(&page, now_ns), Finding::Ping(round));
            page.queues[0].heartbeat.store(round, Relaxed);
            page.queues[1].heartbeat.store(round, Relaxed);
        }
    }

    #[test]
    fn worker_that_does_not_answer_while_the_guest_stands_still_is_not_hung() {
        let (page, mut watch) = (page(), Watch::new(1));
        watch.begin(0);
        assert_eq!(watch.tick(&page, 0), Finding::Ping(1));
        for n in 1..3 {
            assert_eq!(watch.tick(&page, n * PING_NS), Finding::Fine);
        }
        for n in 3..100 {
            watch.rest(n * PING_NS);
            assert_eq!(watch.tick(&page, n * PING_NS), Finding::Fine);
        }
        let findings: Vec<_> = (100..104).map(|n| watch.tick(&page, n * PING_NS)).collect();
        assert_eq!(findings[..3], [Finding::Fine, Finding::Fine, Finding::Fine]);
        assert!(matches!(findings[3], Finding::Hung(_)), "it still does not");
    }

    #[test]
    fn one_worker_that_does_not_answer_is_enough_and_two_seconds_are() {
        let (page, mut watch) = (page(), Watch::new(2));
        watch.begin(0);
        assert_eq!(watch.tick(&page, 0), Finding::Ping(1));
        page.queues[0].heartbeat.store(1, Relaxed);
        let findings: Vec<_> = (1..=4).map(|n| watch.tick(&page, n * PING_NS)).collect();
        assert_eq!(findings[..3], [Finding::Fine, Finding::Fine, Finding::Fine]);
        assert!(matches!(findings[3], Finding::Hung(_)));
    }

    #[test]
    fn host_that_stood_still_is_no_hung_backend() {
        let (page, mut watch) = (page(), Watch::new(1));
        watch.begin(0);
        watch.tick(&page, 0);
        assert_eq!(watch.tick(&page, 100 * PING_NS), Finding::Fine);
        assert_eq!(watch.tick(&page, 100 * PING_NS + 1), Finding::Fine);
    }

    #[test]
    fn queue_that_stands_still_with_nothing_to_wait_for_is_hung() {
        for (busy, in_flight) in [(Some(false), 3), (None, 0)] {
            let (page, mut watch) = (page(), Watch::new(1));
            page.queues[0].in_flight.store(in_flight, Relaxed);
            let mut sample = || watch.sample(&waits(), &page, |_| busy);
            assert_eq!((sample(), sample()), (Finding::Fine, Finding::Fine));
            assert!(matches!(sample(), Finding::Hung(_)));
        }
    }

    #[test]
    fn queue_that_stands_still_behind_its_storage_is_slow_until_it_moves() {
        for (busy, in_flight) in [(Some(true), 0), (None, 3)] {
            let (page, mut watch) = (page(), Watch::new(1));
            page.queues[0].in_flight.store(in_flight, Relaxed);
            let mut sample = |samples: &[QueueSample]| watch.sample(samples, &page, |_| busy);
            for _ in 0..3 {
                assert_eq!(sample(&waits()), Finding::Fine);
            }
            assert!(matches!(sample(&waits()), Finding::Slow(_)));
            for _ in 0..100 {
                assert_eq!(sample(&waits()), Finding::Fine);
            }
            assert_eq!(sample(&[]), Finding::SlowNoMore);
        }
    }

    #[test]
    fn queue_that_moves_is_held_up_or_is_broken_is_not_hung() {
        let (page, mut watch) = (page(), Watch::new(1));
        let mut sample = waits();
        for used in 0..10 {
            sample[0].used = used;
            assert_eq!(watch.sample(&sample, &page, |_| None), Finding::Fine);
        }
        for flag in [BACKPRESSURED, BROKEN] {
            page.queues[0].flags.store(flag, Relaxed);
            for _ in 0..10 {
                assert_eq!(watch.sample(&sample, &page, |_| None), Finding::Fine);
            }
        }
    }

    #[test]
    fn sample_of_a_queue_that_is_not_there_is_nothing() {
        let (page, mut watch) = (page(), Watch::new(1));
        let sample = QueueSample {
            queue: 7,
            avail: 1,
            used: 0,
        };
        for _ in 0..5 {
            let finding = watch.sample(&[sample], &page, |_| Some(false));
            assert_eq!(finding, Finding::Fine);
        }
    }

    #[test]
    fn watch_looks_each_half_second_once_the_backend_is_fit() {
        const HALF_NS: u64 = 500_000_000;
        let (page, mut watch) = (page(), Watch::new(1));
        assert_eq!(watch.deadline_ns(), None);
        watch.rest(3);
        assert_eq!(watch.deadline_ns(), None, "not connected yet");
        watch.begin(5);
        watch.begin(9);
        assert_eq!(watch.deadline_ns(), Some(5));
        assert_eq!(watch.tick(&page, 4), Finding::Fine);
        assert_eq!(watch.tick(&page, 5), Finding::Ping(1));
        assert_eq!(watch.deadline_ns(), Some(5 + HALF_NS));
        page.queues[0].heartbeat.store(1, Relaxed);
        assert_eq!(watch.tick(&page, 5 + HALF_NS - 1), Finding::Fine);
        assert_eq!(watch.tick(&page, 5 + HALF_NS), Finding::Ping(2));
        assert_eq!(watch.tick(&page, 5 + 2 * HALF_NS), Finding::Fine);
        assert_eq!(watch.deadline_ns(), Some(5 + 3 * HALF_NS));
        watch.rest(7 + 2 * HALF_NS);
        assert_eq!(watch.deadline_ns(), Some(7 + 3 * HALF_NS));
    }

    #[test]
    fn ping_asked_for_is_answered_when_each_worker_has() {
        let (page, mut watch) = (page(), Watch::new(2));
        assert!(watch.is_answered(&page), "nothing was asked");
        let ping = watch.ask(7);
        assert_eq!(ping, 1);
        assert_eq!(watch.deadline_ns(), Some(7 + 500_000_000));
        page.queues[0].heartbeat.store(ping, Relaxed);
        assert!(!watch.is_answered(&page));
        page.queues[1].heartbeat.store(ping, Relaxed);
        assert!(watch.is_answered(&page));
    }

    #[test]
    fn looks_in_vain_are_forgotten_when_a_ping_was_answered_or_asked_for() {
        let (page, mut watch) = (page(), Watch::new(1));
        watch.begin(0);
        let mut look = 0;
        let mut tick = |watch: &mut Watch| {
            look += 1;
            watch.tick(&page, look * PING_NS)
        };
        assert_eq!(tick(&mut watch), Finding::Ping(1));
        for _ in 0..10 {
            (0..3).for_each(|_| assert_eq!(tick(&mut watch), Finding::Fine));
            watch.ask(0);
        }
        assert!(matches!(
            [0; 4].map(|_| tick(&mut watch)).last(),
            Some(Finding::Hung(_))
        ));
    }

    #[test]
    fn queue_is_waited_for_and_slow_as_the_last_sample_tells() {
        let (page, mut watch) = (page(), Watch::new(1));
        assert!(!watch.is_waited_for() && !watch.is_slow());
        let mut told = Vec::new();
        for _ in 0..5 {
            watch.sample(&waits(), &page, |_| Some(true));
            told.push((watch.is_waited_for(), watch.is_slow()));
        }
        assert_eq!(told[..3], [(true, false); 3]);
        assert_eq!(told[3..], [(true, true); 2]);
        watch.rest(0);
        assert!(!watch.is_waited_for(), "the guest stands still");
        watch.sample(&[], &page, |_| Some(true));
        assert!(!watch.is_waited_for() && !watch.is_slow());
    }

    #[test]
    fn queue_that_takes_requests_is_not_stuck() {
        let (page, mut watch) = (page(), Watch::new(1));
        for fetched in 0..10 {
            page.queues[0].last_avail.store(fetched, Relaxed);
            let finding = watch.sample(&waits(), &page, |_| Some(false));
            assert_eq!(finding, Finding::Fine);
        }
    }

    #[test]
    fn each_queue_is_compared_with_itself_and_its_own_claims() {
        let (page, mut watch) = (page(), Watch::new(2));
        page.queues[1].flags.store(BACKPRESSURED, Relaxed);
        let sample = |queue, used| QueueSample {
            queue,
            avail: 5,
            used,
        };
        for used in 0..10 {
            let samples = [sample(1, 0), sample(0, used)];
            let finding = watch.sample(&samples, &page, |_| Some(false));
            assert_eq!(finding, Finding::Fine);
        }
        page.queues[1].flags.store(0, Relaxed);
        let mut hung = (10..13).map(|used| {
            let samples = [sample(1, 0), sample(0, used)];
            watch.sample(&samples, &page, |_| Some(false))
        });
        let how = "queue 1 has requests that nobody works on".to_owned();
        assert_eq!(hung.find(|f| *f != Finding::Fine), Some(Finding::Hung(how)));
    }

    #[test]
    fn sample_of_the_queue_behind_the_last_is_nothing() {
        let (page, mut watch) = (page(), Watch::new(1));
        let mut sample = waits();
        sample[0].queue = 1;
        for _ in 0..5 {
            let finding = watch.sample(&sample, &page, |_| Some(false));
            assert_eq!((finding, watch.is_waited_for()), (Finding::Fine, false));
        }
    }
}
