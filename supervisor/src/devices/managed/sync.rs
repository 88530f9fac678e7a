// SPDX-License-Identifier: Apache-2.0
//! Finds out whether the storage has lost writes that the driver does not know of.
//!
//! Linux reports a write-back error once to each opening. A backend may see the error and die
//! before it has told the driver; the opening of the next backend is too young to see it. So for
//! each backend but the VM's first, after its own opening was made, the supervisor has the oldest
//! opening synced, which is as old as the VM, and the backend holds its flushes back until the
//! answer. The error is reported only once there, too: the supervisor remembers a loss until a
//! backend says that the driver was told.

use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;

use super::{ManagedDevice, Phase};
use crate::jailer_link::{AskError, Asked};
use crate::process::SpawnContext;

/// How soon to ask again if the jailer could not be asked.
const RETRY_NS: u64 = 100_000_000;

/// What is known about lost writes.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// The VM has had a backend for this device before.
    has_predecessor: bool,
    /// Writes were lost, and no backend has said that the driver knows.
    lost: bool,
    answer: Answer,
    /// The question for a backend that has died meanwhile: its answer counts all the same.
    stale: Option<Asked>,
}

/// How far the question for the living backend has come.
#[derive(Debug, Default)]
enum Answer {
    /// The backend needs no answer, or has it.
    #[default]
    Told,
    /// To be asked, not before this time.
    Wanted(u64),
    /// The jailer was asked.
    Asked(Asked),
    /// The answer is known; the backend gets it as soon as its version is known.
    Known,
}

impl Sync {
    /// Whether the next backend is not the VM's first.
    pub(super) fn has_predecessor(&self) -> bool {
        self.has_predecessor
    }

    /// A backend starts to run.
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

    /// Whether writes were lost; `None` if the question must be asked again. EIO counts as a loss:
    /// a helper that died may have been told of one.
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

    /// Whether the living backend may be holding flushes back.
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
    /// Asks the jailer, looks for its answer, and tells the living backend.
    pub(super) fn tick_sync(&mut self, context: &SpawnContext, now_ns: u64) {
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
            && life.backend.process().health().loss_told.load(Relaxed) != 0
        {
            self.sync.lost = false;
        }
    }
}
