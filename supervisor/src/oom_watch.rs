// SPDX-License-Identifier: Apache-2.0
//! Finds out whether it was the kernel that killed a backend, for want of memory. Only the jailer sees the
//! counters of the VM's control group, and answers later.

use spec::api::EventKind;

use super::Supervisor;
use super::jailer_link::{Asked, JailerLink};

/// What is known of processes that the kernel has killed.
#[derive(Debug, Default)]
pub(crate) struct OomWatch {
    /// The question, and the device whose backend has died.
    asked: Option<(Asked, Option<String>)>,
    /// How many kills have been told of.
    told: u64,
}

impl OomWatch {
    /// The backend of this device has died: asks the jailer, unless a question is open.
    pub(crate) fn suspect(&mut self, device: Option<String>, jailer: &JailerLink) {
        if self.asked.is_none() {
            // A jailer that cannot be asked is gone.
            self.asked = jailer.ask_oom_kills().ok().map(|asked| (asked, device));
        }
    }

    /// Looks for the answer: the device, and how many processes were killed since the last time.
    pub(crate) fn tick(&mut self) -> Option<(Option<String>, u64)> {
        let answer = self.asked.as_ref()?.0.oom_kills()?;
        let (_, device) = self.asked.take()?;
        self.news(answer.unwrap_or(0)).map(|count| (device, count))
    }

    fn news(&mut self, count: u64) -> Option<u64> {
        let new = count.saturating_sub(self.told);
        self.told = self.told.max(count);
        (new > 0).then_some(new)
    }
}

impl Supervisor {
    /// Tells of processes that the kernel has killed for want of memory, once the jailer knows.
    pub(super) fn tell_oom_kills(&mut self) {
        if let Some((device, count)) = self.oom_watch.tick() {
            let detail = format!("the kernel has killed {count} of the VM's processes");
            let kind = EventKind::OutOfMemory;
            self.event_log.note(kind, device.as_deref(), &detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_is_told_once() {
        let mut watch = OomWatch::default();
        let told = [0, 1, 1, 3, 2, 3].map(|count| watch.news(count));
        assert_eq!(told, [None, Some(1), None, Some(2), None, None]);
    }
}
