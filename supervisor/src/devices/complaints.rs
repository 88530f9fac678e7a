// SPDX-License-Identifier: Apache-2.0
//! What the health page of a living backend says about its host that an operator should know:
//! storage that fails requests, and a tap that was deleted. Pure. These are claims of the backend:
//! the supervisor passes them on and bases no decision on them.

use std::sync::atomic::Ordering::Relaxed;

use ipc::health::{Health, QueueHealth, UNPLUGGED};
use nix::errno::Errno;
use spec::api::EventKind;

/// For so long after an event about failures, further failures are only counted.
const QUIET_NS: u64 = 60_000_000_000;

/// What was reported about one backend.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    /// How many failures were reported.
    told: u64,
    /// Until when further failures are not reported.
    quiet_until_ns: u64,
    unplugged: bool,
}

impl Complaints {
    /// Whether the backend's tap is gone.
    pub(crate) fn is_unplugged(&self) -> bool {
        self.unplugged
    }

    /// What there is to report now, about a disk's backend or a NIC's.
    pub(crate) fn look(
        &mut self,
        page: &Health,
        is_disk: bool,
        now_ns: u64,
    ) -> Option<(EventKind, String)> {
        match is_disk {
            true => self.failures(&page.queues, now_ns),
            false => self.tap(&page.queues),
        }
    }

    fn failures(&mut self, queues: &[QueueHealth], now_ns: u64) -> Option<(EventKind, String)> {
        let sum = |sum: u64, queue: &QueueHealth| sum.saturating_add(queue.errors.load(Relaxed));
        let failures = queues.iter().fold(0, sum);
        if failures <= self.told || now_ns < self.quiet_until_ns {
            return None;
        }
        let count = failures - self.told;
        self.told = failures;
        self.quiet_until_ns = now_ns.saturating_add(QUIET_NS);
        let errno = queues.iter().map(|queue| queue.last_errno.load(Relaxed));
        let errno = errno.filter_map(|errno| i32::try_from(errno).ok());
        let why = errno.filter(|errno| *errno != 0).last();
        let why = why.map_or_else(String::new, |errno| {
            format!(", the last with: {}", Errno::from_raw(errno).desc())
        });
        let detail = format!("{count} since this was last told{why}");
        Some((EventKind::RequestsFailed, detail))
    }

    fn tap(&mut self, queues: &[QueueHealth]) -> Option<(EventKind, String)> {
        let gone = |queue: &QueueHealth| queue.flags.load(Relaxed) & UNPLUGGED != 0;
        if self.unplugged || !queues.iter().any(gone) {
            return None;
        }
        self.unplugged = true;
        let remedy = "it has no network until the VM is started anew".to_string();
        Some((EventKind::TapGone, remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::health::HealthPage;

    #[test]
    fn failures_are_told_at_once_with_their_errno_and_then_once_a_minute() {
        let page = HealthPage::map(ipc::health::create().unwrap()).unwrap();
        let mut complaints = Complaints::default();
        assert_eq!(complaints.look(&page, true, 0), None);
        page.queues[1].errors.store(2, Relaxed);
        page.queues[1]
            .last_errno
            .store(libc::ENOSPC.cast_unsigned(), Relaxed);
        let (kind, detail) = complaints.look(&page, true, 5).unwrap();
        assert_eq!(kind, EventKind::RequestsFailed);
        assert!(detail.starts_with("2 since"), "{detail}");
        assert!(detail.contains("No space left"), "{detail}");
        page.queues[0].errors.store(3, Relaxed);
        assert_eq!(complaints.look(&page, true, QUIET_NS), None);
        let (_, detail) = complaints.look(&page, true, 5 + QUIET_NS).unwrap();
        assert!(detail.starts_with("3 since"), "{detail}");
        assert_eq!(complaints.look(&page, true, 9 * QUIET_NS), None);
    }

    #[test]
    fn counter_that_goes_back_and_odd_errnos_are_no_trouble() {
        let page = HealthPage::map(ipc::health::create().unwrap()).unwrap();
        let mut complaints = Complaints::default();
        page.queues[0].errors.store(u64::MAX, Relaxed);
        page.queues[3].errors.store(u64::MAX, Relaxed);
        page.queues[0].last_errno.store(u32::MAX, Relaxed);
        assert!(complaints.look(&page, true, 0).is_some());
        page.queues[0].errors.store(0, Relaxed);
        page.queues[3].errors.store(0, Relaxed);
        assert_eq!(complaints.look(&page, true, 9 * QUIET_NS), None);
    }

    #[test]
    fn tap_that_is_gone_is_told_once_and_drops_of_a_card_are_not() {
        let page = HealthPage::map(ipc::health::create().unwrap()).unwrap();
        let mut complaints = Complaints::default();
        page.queues[0].errors.store(9, Relaxed);
        assert_eq!(complaints.look(&page, false, 0), None);
        page.queues[0].flags.store(UNPLUGGED, Relaxed);
        let told = complaints.look(&page, false, 0);
        assert!(matches!(told, Some((EventKind::TapGone, _))), "{told:?}");
        assert!(complaints.is_unplugged());
        assert_eq!(complaints.look(&page, false, 1), None);
    }
}
