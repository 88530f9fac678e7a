// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::start_barrier::{Participant, StartBarrier};

const WORKERS: usize = 3;

/// A barrier, and how often it was confined behind.
#[derive(Clone)]
struct Stand(Arc<StartBarrier>, Arc<AtomicUsize>);

impl Stand {
    fn new() -> Self {
        Self(Arc::new(StartBarrier::new(WORKERS)), Arc::default())
    }

    fn confined(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    /// Brings what confines.
    fn bring(&self, succeeds: bool) {
        let count = self.1.clone();
        self.0.close_behind(move || {
            count.fetch_add(1, Ordering::Relaxed);
            succeeds
        });
    }

    /// A thread comes, and waits; it tells how often it had been confined when it passed.
    fn send(&self, participant: Participant) -> thread::JoinHandle<usize> {
        let stand = self.clone();
        let before = self.0.arrived();
        let thread = thread::spawn(move || {
            stand.0.pass(participant);
            stand.confined()
        });
        while self.0.arrived() == before {
            thread::yield_now();
        }
        thread
    }
}

fn participants() -> Vec<Participant> {
    let workers = (0..WORKERS).map(Participant::Worker);
    workers.chain([Participant::Protocol]).collect()
}

#[test]
fn nobody_passes_before_the_last_one_has_confined_them_all() {
    // The waiter comes first, in the middle and last.
    for before in 0..=WORKERS + 1 {
        let stand = Stand::new();
        let mut threads = Vec::new();
        for (number, participant) in participants().into_iter().enumerate() {
            if number == before {
                stand.bring(true);
            }
            assert_eq!(stand.confined(), 0, "{number} of {before}");
            threads.push(stand.send(participant));
        }
        if before > WORKERS {
            assert_eq!(stand.confined(), 0);
            stand.bring(true);
        }
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 1);
        }
        // Whoever comes once more goes on.
        stand.0.pass(Participant::Protocol);
        assert_eq!(stand.confined(), 1);
    }
}

#[test]
fn nobody_passes_when_they_cannot_be_confined() {
    let stand = Stand::new();
    let threads: Vec<_> = participants()
        .into_iter()
        .map(|it| stand.send(it))
        .collect();
    stand.bring(false);
    assert_eq!(stand.confined(), 1);
    assert!(!stand.0.is_open());
    assert!(threads.iter().all(|thread| !thread.is_finished()));
}
