// SPDX-License-Identifier: Apache-2.0
//! The time between the death of a backend and the end of the I/O that the kernel still does for
//! it. It never waits: the supervisor's loop looks again and again.

use super::kind::PendingIo;
use crate::JailerLink;

const MS_NS: u64 = 1_000_000;
/// After this time the supervisor logs that it waits for the storage, and trusts only the kernel.
const PATIENCE_NS: u64 = 5_000 * MS_NS;

/// The I/O fence of a dead and reaped backend.
#[derive(Debug)]
pub(crate) struct Fence {
    pending_io: Box<dyn PendingIo>,
    since_ns: u64,
    next_ns: u64,
    told: bool,
}

impl Fence {
    /// For a backend that is dead and reaped.
    pub(crate) fn new(pending_io: Box<dyn PendingIo>, now_ns: u64) -> Self {
        Self {
            pending_io,
            since_ns: now_ns,
            next_ns: now_ns,
            told: false,
        }
    }

    /// When to look again.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.next_ns
    }

    /// Whether all of its I/O has ended; returns how many microseconds after the process.
    pub(crate) fn ended(&mut self, id: &str, jailer: &JailerLink, now_ns: u64) -> Option<u64> {
        if self.pending_io.is_quiesced(id, jailer) {
            return Some(now_ns.saturating_sub(self.since_ns) / 1000);
        }
        if now_ns < self.next_ns {
            return None;
        }
        let waited_ns = now_ns.saturating_sub(self.since_ns);
        if waited_ns >= PATIENCE_NS && !self.told {
            self.told = true;
            log::error!(device_id = id; "stalled: the storage does not finish a dead backend's I/O");
            self.pending_io.distrust();
        }
        // Often at first, when the end is near, and later rarely enough to cost nothing.
        self.next_ns = now_ns + (waited_ns / 8).clamp(MS_NS, 500 * MS_NS);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use ipc::control::Channel;

    fn jailer() -> JailerLink {
        JailerLink::new(Channel::pair().unwrap().0)
    }

    /// Says that it is there until it is not believed.
    #[derive(Debug)]
    struct Liar(bool);

    impl PendingIo for Liar {
        fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
            self.0
        }

        fn distrust(&mut self) {
            self.0 = true;
        }
    }

    #[test]
    fn fence_of_a_liar_falls_when_patience_is_over() {
        let mut fence = Fence::new(Box::new(Liar(false)), 7);
        while fence.deadline_ns() < 7 + PATIENCE_NS {
            assert_eq!(fence.ended("d", &jailer(), fence.deadline_ns()), None);
        }
        assert_eq!(fence.ended("d", &jailer(), fence.deadline_ns()), None);
        assert!(fence.ended("d", &jailer(), fence.deadline_ns()).is_some());
    }

    /// Gone at the look of this number.
    #[derive(Debug)]
    struct Slow(u32);

    impl PendingIo for Slow {
        fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 == 0
        }
    }

    #[test]
    fn fence_of_nothing_falls_at_once() {
        assert_eq!(
            Fence::new(Box::new(()), 7).ended("d", &jailer(), 9),
            Some(0)
        );
    }

    #[test]
    fn fence_is_looked_at_whenever_something_happens_and_when_it_is_time() {
        let mut fence = Fence::new(Box::new(Slow(3)), 7);
        assert_eq!(fence.ended("d", &jailer(), 7), None);
        let deadline_ns = fence.deadline_ns();
        assert_eq!(fence.ended("d", &jailer(), 8), None);
        assert_eq!(fence.deadline_ns(), deadline_ns, "it is not put off");
        assert!(fence.ended("d", &jailer(), deadline_ns).is_some());
    }

    /// Is there for ever, and counts how often it is not believed.
    #[derive(Debug, Default)]
    struct Endless(Rc<Cell<u32>>);

    impl PendingIo for Endless {
        fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
            false
        }

        fn distrust(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn fence_is_looked_at_often_at_first_and_seldom_later() {
        let mut fence = Fence::new(Box::new(Endless::default()), 7);
        let mut next_ms = |waited_ms: u64| {
            let now_ns = 7 + waited_ms * 1_000_000;
            assert_eq!(fence.ended("d", &jailer(), now_ns), None);
            (fence.deadline_ns() - now_ns) / 1_000_000
        };
        let looks = [0, 8, 80, 800, 4000, 8000, 80_000].map(&mut next_ms);
        assert_eq!(looks, [1, 1, 10, 100, 500, 500, 500]);
    }

    #[test]
    fn fence_that_does_not_fall_for_five_seconds_is_not_believed_once() {
        let distrusted = Rc::new(Cell::new(0));
        let mut fence = Fence::new(Box::new(Endless(Rc::clone(&distrusted))), 7);
        let mut after = |waited_ns: u64| {
            assert_eq!(fence.ended("d", &jailer(), 7 + waited_ns), None);
            distrusted.get()
        };
        let seconds = [0, 4_999_999_999, 6_000_000_000, 7_000_000_000];
        assert_eq!(seconds.map(&mut after), [0, 0, 1, 1]);
        let mut fence = Fence::new(Box::new(Endless(Rc::clone(&distrusted))), 7);
        assert_eq!(fence.ended("d", &jailer(), 7 + 5_000_000_000), None);
        assert_eq!(distrusted.get(), 2, "five seconds are enough");
    }

    #[test]
    fn fence_that_falls_tells_how_many_microseconds_it_stood() {
        let mut fence = Fence::new(Box::new(Slow(1)), 7);
        assert_eq!(fence.ended("d", &jailer(), 7 + 12_345_678), Some(12_345));
    }
}
