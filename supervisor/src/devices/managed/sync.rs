// SPDX-License-Identifier: Apache-2.0
//! Whether the storage has lost writes of which the driver does not know.
//!
//! Linux tells a write-back error once for each opening. A backend may be told, and die before it has
//! told the driver; the next one's opening is too young to be told. So each generation but the first
//! has the opening asked that is as old as the VM, after its own was made, and waits with its flushes
//! for the answer. Asking uses the answer up: a loss is kept here until a backend says that the driver
//! was told.

use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;

use super::{ManagedDevice, Phase};
use crate::devices::kind::SpawnContext;
use crate::jailer_link::{AskError, Asked};

/// How soon it is asked again if it could not be asked.
const RETRY_NS: u64 = 100_000_000;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// The VM has had a backend of this device before.
    has_predecessor: bool,
    /// Writes were lost, and no backend has said that the driver knows.
    lost: bool,
    answer: Answer,
    /// What was asked for a backend that has died meanwhile: what comes of it counts all the same.
    stale: Option<Asked>,
}

/// How far the living backend's question is.
#[derive(Debug, Default)]
enum Answer {
    /// It has no question, or knows the answer.
    #[default]
    Told,
    /// The question is to be asked, not before this time.
    Wanted(u64),
    /// It was asked.
    Asked(Asked),
    /// The answer is there, and the backend is to be told as soon as it listens.
    Known,
}

impl Sync {
    /// Whether the next backend is not the first.
    pub(super) fn has_predecessor(&self) -> bool {
        self.has_predecessor
    }

    /// A backend begins to live.
    pub(super) fn begin(&mut self, is_witnessed: bool) {
        let is_first = !std::mem::replace(&mut self.has_predecessor, true);
        let next = match is_first || !is_witnessed {
            true => Answer::Told,
            false => Answer::Wanted(0),
        };
        if let Answer::Asked(asked) = std::mem::replace(&mut self.answer, next) {
            self.stale = Some(asked);
        }
    }

    /// What has come of a question: whether writes were lost, or nothing if it has to be asked again.
    /// A helper that died may have been told of a loss before.
    fn judge(answer: &Result<i32, AskError>) -> Option<bool> {
        match answer {
            Ok(errno) => Some(*errno != 0),
            Err(AskError::Refused(Errno::EIO)) => Some(true),
            Err(_) => None,
        }
    }

    fn note(&mut self, id: &str, lost: bool) {
        if lost {
            self.lost = true;
            log::error!(device_id = id; "the storage has lost writes: the driver is told by its next flush");
        }
    }

    /// Whether the living backend may have flushes that wait.
    pub(super) fn is_waited_for(&self) -> bool {
        !matches!(self.answer, Answer::Told)
    }

    /// When to ask.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        match self.answer {
            Answer::Wanted(at_ns) if self.stale.is_none() => Some(at_ns),
            _ => None,
        }
    }
}

impl ManagedDevice {
    /// Time has passed: asks, looks for the answer, and tells the living backend.
    pub(super) fn tick_sync(&mut self, context: &SpawnContext<'_>, now_ns: u64) {
        self.hear_loss_told();
        let Some(question) = self.kind.witness() else {
            return;
        };
        if let Some(answer) = self.sync.stale.as_ref().and_then(Asked::synced) {
            self.sync.stale = None;
            self.sync
                .note(self.kind.id(), Sync::judge(&answer).unwrap_or(false));
        }
        let is_due = matches!(self.sync.answer, Answer::Wanted(at_ns) if at_ns <= now_ns);
        if is_due && self.sync.stale.is_none() {
            self.sync.answer = match context.jailer.ask(question) {
                Ok(asked) => Answer::Asked(asked),
                Err(_) => Answer::Wanted(now_ns + RETRY_NS),
            };
        }
        if let Answer::Asked(asked) = &self.sync.answer
            && let Some(answer) = asked.synced()
        {
            self.sync.answer = match Sync::judge(&answer) {
                Some(lost) => {
                    self.sync.note(self.kind.id(), lost);
                    Answer::Known
                }
                None => Answer::Wanted(now_ns + RETRY_NS),
            };
        }
        if let (Answer::Known, Phase::Alive(life)) = (&self.sync.answer, &self.phase)
            && life.backend.tell_synced(self.sync.lost)
        {
            self.sync.answer = Answer::Told;
        }
    }

    /// Looks whether the living backend says that the driver knows of the loss.
    pub(super) fn hear_loss_told(&mut self) {
        if let Phase::Alive(life) = &self.phase
            && life.backend.health().loss_told.load(Relaxed) != 0
        {
            self.sync.lost = false;
        }
    }
}
