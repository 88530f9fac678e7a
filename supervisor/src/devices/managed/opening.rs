// SPDX-License-Identifier: Apache-2.0
//! What has to be opened for the next backend: asked for as soon as it is known that there is to be
//! one, and waited for by nobody but this device. Storage may take as long as it likes.

use spec::api::EventKind;

use super::{ManagedDevice, Phase, Upgrade};
use crate::devices::kind::{BackendError, Opened, SpawnContext};
use crate::jailer_link::Asked;

/// After this time it is said that the storage is waited for.
const PATIENCE_NS: u64 = 2_000_000_000;

/// How far it is.
#[derive(Debug, Default)]
pub(super) enum Opening {
    /// Nobody has asked for it.
    #[default]
    Unasked,
    /// The jailer opens it.
    Asked {
        asked: Asked,
        since_ns: u64,
        /// It was said that the storage is waited for.
        told: bool,
    },
    /// There it is.
    Ready(Opened),
    /// It cannot be had now: whoever needs it asks again.
    Failed(BackendError),
}

impl Opening {
    /// Whether it is waited for.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    /// When something is to be said of it.
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
    /// Whether a backend can be started as far as this goes: what it needs is there, or cannot be had,
    /// which shows when it is started.
    pub(super) fn is_opened(&self) -> bool {
        let settled = matches!(self.opening, Opening::Ready(_) | Opening::Failed(_));
        self.kind.needs().is_none() || settled
    }

    /// What the next backend needs, if it needs anything.
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

    /// Time has passed: asks for what is needed next, and looks for the answer.
    pub(super) fn tick_opening(&mut self, context: &SpawnContext<'_>, now_ns: u64) {
        let is_wanted = match &self.phase {
            Phase::Fencing(_) | Phase::Backoff { .. } => true,
            Phase::Idle => self.retiring,
            Phase::Alive(_) => matches!(self.upgrade, Some(Upgrade::Opening { .. })),
            Phase::Failed => false,
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
                let was_told = *told;
                self.opening = match answer {
                    Ok((reopened, file)) => Opening::Ready(Opened {
                        file,
                        mark: reopened.mark,
                        geometry: reopened.geometry,
                    }),
                    Err(error) => Opening::Failed(BackendError::Reopen(error)),
                };
                if was_told {
                    self.note(EventKind::SlowNoMore, "");
                }
            }
            None if now_ns >= *since_ns + PATIENCE_NS && !*told => {
                *told = true;
                let why = "waits for its storage, which does not open the image";
                self.note(EventKind::Slow, why);
            }
            None => {}
        }
    }
}
