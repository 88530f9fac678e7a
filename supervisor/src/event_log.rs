// SPDX-License-Identifier: Apache-2.0
//! The latest events of the VM: for the API, and each as a line of the log.

use std::collections::VecDeque;

use host::clock::monotonic_ns;
use spec::api::{EVENTS_MAX, Event, EventKind, Events};

/// How many bytes of a detail are kept. A vmm may send more, and all events must fit into the
/// backlog of one API client.
const DETAIL_MAX_BYTES: usize = 400;

/// The last events.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    events: VecDeque<Event>,
    count: u64,
}

impl EventLog {
    /// Notes an event, of a device if it is about one.
    pub(crate) fn note(&mut self, kind: EventKind, device: Option<&str>, detail: &str) {
        let level = level(kind);
        let what = kind.as_str();
        let detail = tidy(detail);
        match device {
            Some(id) => log::log!(level, device_id = id; "{what}: {detail}"),
            None => log::log!(level, "{what}: {detail}"),
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.count += 1;
        self.events.push_back(Event {
            number: self.count,
            time_ns: monotonic_ns(),
            kind,
            device: device.map(str::to_owned),
            detail,
        });
    }

    /// All events that are kept, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// For the API.
    pub(crate) fn events(&self) -> Events {
        Events {
            events: self.events.iter().cloned().collect(),
        }
    }
}

/// One line, cut to the limit, without control characters.
fn tidy(detail: &str) -> String {
    let clipped = &detail[..detail.floor_char_boundary(DETAIL_MAX_BYTES)];
    host::output::harmless(clipped)
}

fn level(kind: EventKind) -> log::Level {
    match kind {
        EventKind::StartFailed
        | EventKind::BackendDied
        | EventKind::BackendHung
        | EventKind::RequestsFailed
        | EventKind::TapGone
        | EventKind::Stalled
        | EventKind::OutOfMemory
        | EventKind::UpgradeRolledBack => log::Level::Error,
        EventKind::Slow
        | EventKind::BackendLost
        | EventKind::UpgradeRefused
        | EventKind::GuestFault => log::Level::Warn,
        _ => log::Level::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_keeps_the_last_events_and_counts_all() {
        let mut event_log = EventLog::default();
        for _ in 0..EVENTS_MAX + 3 {
            event_log.note(EventKind::BackendDied, Some("disk0"), "was killed");
        }
        let events = event_log.events().events;
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!(events[0].number, 4);
        assert_eq!(events[0].device.as_deref(), Some("disk0"));
    }
}
