// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

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
    let (page, mut watchdog) = (page(), Watchdog::new(2));
    assert_eq!(
        watchdog.tick(&page, 0),
        WatchdogEvent::Fine,
        "not connected yet"
    );
    watchdog.begin(0);
    for round in 1..100 {
        let now_ns = u64::from(round) * PING_NS;
        assert_eq!(watchdog.tick(&page, now_ns), WatchdogEvent::Ping(round));
        page.queues[0].heartbeat.store(round, Relaxed);
        page.queues[1].heartbeat.store(round, Relaxed);
    }
}

#[test]
fn worker_that_does_not_answer_while_the_guest_stands_still_is_not_hung() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    watchdog.begin(0);
    assert_eq!(watchdog.tick(&page, 0), WatchdogEvent::Ping(1));
    for n in 1..3 {
        assert_eq!(watchdog.tick(&page, n * PING_NS), WatchdogEvent::Fine);
    }
    for n in 3..100 {
        watchdog.rest(n * PING_NS);
        assert_eq!(watchdog.tick(&page, n * PING_NS), WatchdogEvent::Fine);
    }
    let findings: Vec<_> = (100..104)
        .map(|n| watchdog.tick(&page, n * PING_NS))
        .collect();
    assert_eq!(
        findings[..3],
        [
            WatchdogEvent::Fine,
            WatchdogEvent::Fine,
            WatchdogEvent::Fine
        ]
    );
    assert!(
        matches!(findings[3], WatchdogEvent::Hung(_)),
        "it still does not"
    );
}

#[test]
fn one_worker_that_does_not_answer_is_enough_and_two_seconds_are() {
    let (page, mut watchdog) = (page(), Watchdog::new(2));
    watchdog.begin(0);
    assert_eq!(watchdog.tick(&page, 0), WatchdogEvent::Ping(1));
    page.queues[0].heartbeat.store(1, Relaxed);
    let findings: Vec<_> = (1..=4).map(|n| watchdog.tick(&page, n * PING_NS)).collect();
    assert_eq!(
        findings[..3],
        [
            WatchdogEvent::Fine,
            WatchdogEvent::Fine,
            WatchdogEvent::Fine
        ]
    );
    assert!(matches!(findings[3], WatchdogEvent::Hung(_)));
}

#[test]
fn host_that_stood_still_is_no_hung_backend() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    watchdog.begin(0);
    watchdog.tick(&page, 0);
    assert_eq!(watchdog.tick(&page, 100 * PING_NS), WatchdogEvent::Fine);
    assert_eq!(watchdog.tick(&page, 100 * PING_NS + 1), WatchdogEvent::Fine);
}

#[test]
fn queue_that_stands_still_with_nothing_to_wait_for_is_hung() {
    for (busy, in_flight) in [(Some(false), 3), (None, 0)] {
        let (page, mut watchdog) = (page(), Watchdog::new(1));
        page.queues[0].in_flight.store(in_flight, Relaxed);
        let mut sample = || watchdog.sample(&waits(), &page, |_| busy);
        assert_eq!(
            (sample(), sample()),
            (WatchdogEvent::Fine, WatchdogEvent::Fine)
        );
        assert!(matches!(sample(), WatchdogEvent::Hung(_)));
    }
}

#[test]
fn queue_that_stands_still_behind_its_storage_is_slow_until_it_moves() {
    for (busy, in_flight) in [(Some(true), 0), (None, 3)] {
        let (page, mut watchdog) = (page(), Watchdog::new(1));
        page.queues[0].in_flight.store(in_flight, Relaxed);
        let mut sample = |samples: &[QueueSample]| watchdog.sample(samples, &page, |_| busy);
        for _ in 0..3 {
            assert_eq!(sample(&waits()), WatchdogEvent::Fine);
        }
        assert!(matches!(sample(&waits()), WatchdogEvent::Slow(_)));
        for _ in 0..100 {
            assert_eq!(sample(&waits()), WatchdogEvent::Fine);
        }
        assert_eq!(sample(&[]), WatchdogEvent::SlowNoMore);
    }
}

#[test]
fn queue_that_moves_is_held_up_or_is_broken_is_not_hung() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    let mut sample = waits();
    for used in 0..10 {
        sample[0].used = used;
        assert_eq!(
            watchdog.sample(&sample, &page, |_| None),
            WatchdogEvent::Fine
        );
    }
    for flag in [BACKPRESSURED, BROKEN] {
        page.queues[0].flags.store(flag, Relaxed);
        for _ in 0..10 {
            assert_eq!(
                watchdog.sample(&sample, &page, |_| None),
                WatchdogEvent::Fine
            );
        }
    }
}

#[test]
fn sample_of_a_queue_that_is_not_there_is_nothing() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    let sample = QueueSample {
        queue: 7,
        avail: 1,
        used: 0,
    };
    for _ in 0..5 {
        let event = watchdog.sample(&[sample], &page, |_| Some(false));
        assert_eq!(event, WatchdogEvent::Fine);
    }
}

#[test]
fn watch_looks_each_half_second_once_the_backend_is_fit() {
    const HALF_NS: u64 = 500_000_000;
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    assert_eq!(watchdog.deadline_ns(), None);
    watchdog.rest(3);
    assert_eq!(watchdog.deadline_ns(), None, "not connected yet");
    watchdog.begin(5);
    watchdog.begin(9);
    assert_eq!(watchdog.deadline_ns(), Some(5));
    assert_eq!(watchdog.tick(&page, 4), WatchdogEvent::Fine);
    assert_eq!(watchdog.tick(&page, 5), WatchdogEvent::Ping(1));
    assert_eq!(watchdog.deadline_ns(), Some(5 + HALF_NS));
    page.queues[0].heartbeat.store(1, Relaxed);
    assert_eq!(watchdog.tick(&page, 5 + HALF_NS - 1), WatchdogEvent::Fine);
    assert_eq!(watchdog.tick(&page, 5 + HALF_NS), WatchdogEvent::Ping(2));
    assert_eq!(watchdog.tick(&page, 5 + 2 * HALF_NS), WatchdogEvent::Fine);
    assert_eq!(watchdog.deadline_ns(), Some(5 + 3 * HALF_NS));
    watchdog.rest(7 + 2 * HALF_NS);
    assert_eq!(watchdog.deadline_ns(), Some(7 + 3 * HALF_NS));
}

#[test]
fn ping_asked_for_is_answered_when_each_worker_has() {
    let (page, mut watchdog) = (page(), Watchdog::new(2));
    assert!(watchdog.is_answered(&page), "nothing was asked");
    let ping = watchdog.ask(7);
    assert_eq!(ping, 1);
    assert_eq!(watchdog.deadline_ns(), Some(7 + 500_000_000));
    page.queues[0].heartbeat.store(ping, Relaxed);
    assert!(!watchdog.is_answered(&page));
    page.queues[1].heartbeat.store(ping, Relaxed);
    assert!(watchdog.is_answered(&page));
}

#[test]
fn looks_in_vain_are_forgotten_when_a_ping_was_answered_or_asked_for() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    watchdog.begin(0);
    let mut look = 0;
    let mut tick = |watchdog: &mut Watchdog| {
        look += 1;
        watchdog.tick(&page, look * PING_NS)
    };
    assert_eq!(tick(&mut watchdog), WatchdogEvent::Ping(1));
    for _ in 0..10 {
        (0..3).for_each(|_| assert_eq!(tick(&mut watchdog), WatchdogEvent::Fine));
        watchdog.ask(0);
    }
    assert!(matches!(
        [0; 4].map(|_| tick(&mut watchdog)).last(),
        Some(WatchdogEvent::Hung(_))
    ));
}

#[test]
fn queue_is_waited_for_and_slow_as_the_last_sample_tells() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    assert!(!watchdog.is_waited_for() && !watchdog.is_slow());
    let mut told = Vec::new();
    for _ in 0..5 {
        watchdog.sample(&waits(), &page, |_| Some(true));
        told.push((watchdog.is_waited_for(), watchdog.is_slow()));
    }
    assert_eq!(told[..3], [(true, false); 3]);
    assert_eq!(told[3..], [(true, true); 2]);
    watchdog.rest(0);
    assert!(!watchdog.is_waited_for(), "the guest stands still");
    watchdog.sample(&[], &page, |_| Some(true));
    assert!(!watchdog.is_waited_for() && !watchdog.is_slow());
}

#[test]
fn queue_that_takes_requests_is_not_stuck() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    for fetched in 0..10 {
        page.queues[0].last_avail.store(fetched, Relaxed);
        let event = watchdog.sample(&waits(), &page, |_| Some(false));
        assert_eq!(event, WatchdogEvent::Fine);
    }
}

#[test]
fn each_queue_is_compared_with_itself_and_its_own_claims() {
    let (page, mut watchdog) = (page(), Watchdog::new(2));
    page.queues[1].flags.store(BACKPRESSURED, Relaxed);
    let sample = |queue, used| QueueSample {
        queue,
        avail: 5,
        used,
    };
    for used in 0..10 {
        let samples = [sample(1, 0), sample(0, used)];
        let event = watchdog.sample(&samples, &page, |_| Some(false));
        assert_eq!(event, WatchdogEvent::Fine);
    }
    page.queues[1].flags.store(0, Relaxed);
    let mut hung = (10..13).map(|used| {
        let samples = [sample(1, 0), sample(0, used)];
        watchdog.sample(&samples, &page, |_| Some(false))
    });
    let how = "queue 1 has requests that no thread works on".to_owned();
    assert_eq!(
        hung.find(|f| *f != WatchdogEvent::Fine),
        Some(WatchdogEvent::Hung(how))
    );
}

#[test]
fn sample_of_the_queue_behind_the_last_is_nothing() {
    let (page, mut watchdog) = (page(), Watchdog::new(1));
    let mut sample = waits();
    sample[0].queue = 1;
    for _ in 0..5 {
        let event = watchdog.sample(&sample, &page, |_| Some(false));
        assert_eq!(
            (event, watchdog.is_waited_for()),
            (WatchdogEvent::Fine, false)
        );
    }
}
