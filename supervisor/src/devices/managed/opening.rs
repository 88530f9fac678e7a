// SPDX-License-Identifier: Apache-2.0
//! Has the jailer open what the next backend needs, as soon as there is to be a next one. Only this
//! device waits for it: storage may take as long as it likes.

use spec::api::EventKind;

use super::{Actions, ManagedDevice, Phase, Upgrade};
use crate::devices::kind::{BackendError, Opened};
use crate::jailer_link::Asked;
use crate::process::SpawnContext;

/// After this time the event log says that the device waits for its storage.
const PATIENCE_NS: u64 = 2_000_000_000;

/// How far the opening has come.
#[derive(Debug, Default)]
pub(super) enum Opening {
    /// The jailer has not been asked.
    #[default]
    Unasked,
    /// The jailer is opening it.
    Asked {
        asked: Asked,
        since_ns: u64,
        /// The event log says that the device waits for its storage.
        told: bool,
    },
    /// It is open.
    Ready(Opened),
    /// It could not be opened: asked for again when a backend is to start.
    Failed(BackendError),
}

impl Opening {
    /// Whether the jailer is opening it.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    /// When to tell the event log about it.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Self::Asked {
                since_ns,
                told: false,
                ..
            } => Some(since_ns + PATIENCE_NS),
            _ => None,
        }
    }
}

impl ManagedDevice {
    /// Whether a backend can be started: what it needs is open, or could not be opened, which the
    /// start then reports.
    pub(super) fn is_opened(&self) -> bool {
        let settled = matches!(self.opening, Opening::Ready(_) | Opening::Failed(_));
        self.kind.needs().is_none() || settled
    }

    /// What was opened for the next backend, if it needs anything.
    pub(super) fn take_opened(&mut self) -> Result<Option<Opened>, BackendError> {
        match std::mem::take(&mut self.opening) {
            Opening::Ready(opened) => Ok(Some(opened)),
            Opening::Failed(error) => Err(error),
            other => {
                self.opening = other;
                Ok(None)
            }
        }
    }

    /// Asks the jailer for what is needed next, and looks for its answer.
    pub(super) fn tick_opening(
        &mut self,
        context: &SpawnContext,
        now_ns: u64,
        actions: &mut Actions,
    ) {
        let is_wanted = match &self.phase {
            Phase::Idle | Phase::Fencing { .. } | Phase::Backoff { .. } => true,
            Phase::Alive(_) => matches!(self.upgrade, Some(Upgrade::Opening { .. })),
            Phase::Failed { .. } => false,
        };
        if let (true, Opening::Unasked, Some(question)) =
            (is_wanted, &self.opening, self.kind.needs())
        {
            self.opening = match context.jailer.ask(question) {
                Ok(asked) => Opening::Asked {
                    asked,
                    since_ns: now_ns,
                    told: false,
                },
                Err(error) => Opening::Failed(BackendError::Reopen(error)),
            };
        }
        let Opening::Asked {
            asked,
            since_ns,
            told,
        } = &mut self.opening
        else {
            return;
        };
        match asked.reopened() {
            Some(answer) => {
                if *told {
                    actions.note(EventKind::SlowNoMore, "");
                }
                self.opening = match answer {
                    Ok((reopened, file)) => Opening::Ready(Opened {
                        file,
                        mark: reopened.mark,
                        geometry: reopened.geometry,
                    }),
                    Err(error) => Opening::Failed(BackendError::Reopen(error)),
                };
            }
            None if now_ns >= *since_ns + PATIENCE_NS && !*told => {
                *told = true;
                let why = "waits for its storage, which does not open the image";
                actions.note(EventKind::Slow, why);
            }
            None => {}
        }
    }
}
