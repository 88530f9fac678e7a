// SPDX-License-Identifier: Apache-2.0
//! Replaces the program of a device whose backend lives. The supervisor starts a candidate beside
//! the old backend and has the vmm judge it. Then the old backend completes what it has taken, and
//! is killed. The candidate must complete a request, and then each of its workers must answer a
//! ping: one of them may have begun, and hang. If anything fails before that, the old program
//! serves the device again. A stalled device has no old backend to go on meanwhile, and is tried
//! with the new program at once.
//!
//! ```text
//! stalled ───────────────────────────────────────────────────────────────────┐
//! Opening ──opened──▶ Probing ──fit──▶ Draining ──drained──▶ Switching ──fence──▶ Trial ──completes, answers──▶ done
//!    │ not opened        │ unfit, dead     │ old one dies         │ dead              │ dead, hung, lost
//!    └─▶ refused         └─▶ refused       └─▶ refused            └──────▶ rolled back ◀┘
//! ```

use std::os::fd::{AsFd, OwnedFd};

use ipc::control::ToDevice;
use spec::api::EventKind;

use super::{
    Actions, CONNECT_NS, DeviceAction, ManagedDevice, Next, Opening, Phase, RestartDecision,
};
use crate::devices::backend::Backend;
use crate::devices::fence::PendingIo;
use crate::devices::kind::{BackendError, SpawnOptions};
use crate::exit_report;
use crate::process::SpawnContext;

/// How long the storage may take to open what the candidate needs.
const OPEN_NS: u64 = 5_000_000_000;
/// How long the vmm may take to judge a candidate; the vmm gives up earlier.
const PROBE_NS: u64 = 5_000_000_000;
/// How long the old backend may take to complete what it has taken. Its storage may be slow; the
/// vmm gives up earlier.
const DRAIN_NS: u64 = 125_000_000_000;
/// How often to look for the first completion.
const LOOK_NS: u64 = 5_000_000;
/// If the driver has waited for nothing for so long, no first completion will come.
const IDLE_NS: u64 = 2_500_000_000;
/// If the driver waits for so long, the old program gets another chance. Storage alone may be slow,
/// but the supervisor cannot tell the two apart.
const TRIAL_NS: u64 = 10_000_000_000;
/// How long all of it may take, without the fence of the old backend.
pub(crate) const UPGRADE_NS: u64 = OPEN_NS + PROBE_NS + DRAIN_NS + CONNECT_NS + TRIAL_NS;

/// A backend that may become the next one.
#[derive(Debug)]
pub(super) struct Candidate {
    backend: Backend,
    pending_io: Box<dyn PendingIo>,
    program: OwnedFd,
}

/// How far an upgrade has come.
#[derive(Debug)]
pub(super) enum Upgrade {
    /// The jailer opens what the candidate needs.
    Opening { program: OwnedFd, until_ns: u64 },
    /// The vmm judges the candidate.
    Probing { next: Candidate, until_ns: u64 },
    /// The old backend completes what it has taken.
    Draining { next: Candidate, until_ns: u64 },
    /// The old backend has been killed.
    Switching { next: Candidate },
    /// The new backend has the device and has yet to show that it serves. `asked`: it has completed
    /// something, and each worker was asked for a sign of life.
    Trial {
        program: OwnedFd,
        since_ns: u64,
        look_ns: u64,
        asked: bool,
    },
}

impl Upgrade {
    fn next(&self) -> Option<&Candidate> {
        match self {
            Self::Probing { next, .. } | Self::Draining { next, .. } | Self::Switching { next } => {
                Some(next)
            }
            Self::Opening { .. } | Self::Trial { .. } => None,
        }
    }

    /// A trial of this program that starts now.
    fn trial(program: OwnedFd, now_ns: u64) -> Self {
        Self::Trial {
            program,
            since_ns: now_ns,
            look_ns: now_ns + LOOK_NS,
            asked: false,
        }
    }

    /// The program on trial.
    pub(super) fn tried(&self) -> Option<&OwnedFd> {
        match self {
            Self::Trial { program, .. } => Some(program),
            _ => None,
        }
    }

    /// The candidate.
    pub(super) fn candidate(&self) -> Option<&Backend> {
        self.next().map(|next| &next.backend)
    }

    /// The candidate, to read its messages.
    pub(super) fn candidate_mut(&mut self) -> Option<&mut Backend> {
        match self {
            Self::Probing { next, .. } | Self::Draining { next, .. } | Self::Switching { next } => {
                Some(&mut next.backend)
            }
            Self::Opening { .. } | Self::Trial { .. } => None,
        }
    }

    /// When to look at it again.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Self::Opening { until_ns, .. }
            | Self::Probing { until_ns, .. }
            | Self::Draining { until_ns, .. } => Some(*until_ns),
            Self::Trial { look_ns, .. } => Some(*look_ns),
            Self::Switching { .. } => None,
        }
    }
}

impl ManagedDevice {
    /// Starts to replace the program of the device.
    pub(crate) fn upgrade(
        &mut self,
        context: &SpawnContext,
        program: OwnedFd,
        now_ns: u64,
    ) -> Result<Actions, String> {
        if self.upgrade.is_some() {
            return Err("it is being upgraded already".into());
        }
        let mut actions = Actions::default();
        match &self.phase {
            Phase::Failed { after_crash } => {
                actions.note(EventKind::UpgradeAsked, "of a stalled device");
                self.restarts.reset_backoff();
                self.upgrade = Some(Upgrade::trial(program, now_ns));
                self.phase = Phase::Backoff {
                    until_ns: now_ns,
                    after_crash: *after_crash,
                };
                return Ok(actions);
            }
            Phase::Alive(life) if life.is_connected() && !life.retired && !life.stop_requested => {}
            _ => return Err("it has no backend that could be succeeded now".into()),
        }
        actions.note(EventKind::UpgradeAsked, "");
        if self.is_opened() {
            // Opened earlier: it does not say what the image is now.
            self.opening = Opening::Unasked;
        }
        let until_ns = now_ns + OPEN_NS;
        self.upgrade = Some(Upgrade::Opening { program, until_ns });
        self.tick_opening(context, now_ns, &mut actions);
        self.start_candidate(context, now_ns, &mut actions);
        Ok(actions)
    }

    /// Starts the candidate, if what it needs is open.
    fn start_candidate(&mut self, context: &SpawnContext, now_ns: u64, actions: &mut Actions) {
        if !self.is_opened() {
            return;
        }
        let program = match self.upgrade.take() {
            Some(Upgrade::Opening { program, .. }) => program,
            other => {
                self.upgrade = other;
                return;
            }
        };
        let how = SpawnOptions {
            program: Some(program.as_fd()),
            after_crash: false,
            awaits_sync: true,
            anew: true,
        };
        let opened = self.take_opened();
        let born = opened.and_then(|opened| {
            let (prepared, stream) = self.kind.prepare(context, how, opened)?;
            let process = self.kind.start(context, &prepared.child)?;
            Ok::<_, BackendError>((Backend::new(process), prepared.pending_io, stream))
        });
        match born {
            Ok((backend, pending_io, stream)) => {
                self.upgrade = Some(Upgrade::Probing {
                    next: Candidate {
                        backend,
                        pending_io,
                        program,
                    },
                    until_ns: now_ns + PROBE_NS,
                });
                actions.push(DeviceAction::Probe(stream));
            }
            Err(error) => refuse(&host::log::chain(&error), actions),
        }
    }

    /// The vmm has found the candidate compatible.
    pub(super) fn compatible(&mut self, now_ns: u64, actions: &mut Actions) {
        match self.upgrade.take() {
            Some(Upgrade::Probing { next, .. }) => {
                let until_ns = now_ns + DRAIN_NS;
                self.upgrade = Some(Upgrade::Draining { next, until_ns });
                actions.push(DeviceAction::Tell(ToDevice::Drain));
            }
            other => self.upgrade = other,
        }
    }

    /// The vmm has found the candidate incompatible.
    pub(super) fn incompatible(&mut self, why: &str, actions: &mut Actions) {
        if matches!(self.upgrade, Some(Upgrade::Probing { .. })) {
            self.abandon(&format!("the new backend cannot take over: {why}"), actions);
        }
    }

    /// The vmm has stopped the queues: the old backend has nothing in progress.
    pub(super) fn drained(&mut self) {
        match (self.upgrade.take(), &mut self.phase) {
            (Some(Upgrade::Draining { next, .. }), Phase::Alive(life)) => {
                life.backend.kill();
                life.stop_requested = true;
                self.upgrade = Some(Upgrade::Switching { next });
            }
            (other, _) => self.upgrade = other,
        }
    }

    /// Gives an upgrade up before the new program has shown that it serves, and reports why.
    pub(super) fn abandon(&mut self, why: &str, actions: &mut Actions) {
        match self.upgrade.take() {
            None => return,
            Some(Upgrade::Opening { .. }) => return refuse(why, actions),
            Some(
                Upgrade::Probing { next, .. }
                | Upgrade::Draining { next, .. }
                | Upgrade::Switching { next },
            ) => {
                next.backend.kill();
                self.dying.push(next.backend);
                actions.note(EventKind::UpgradeRefused, why);
            }
            Some(Upgrade::Trial { .. }) => actions.note(EventKind::UpgradeRolledBack, why),
        }
        actions.push(DeviceAction::Answer(Err(why.to_owned())));
    }

    /// Handles the candidate's end, if it has ended.
    pub(super) fn candidate_exited(&mut self, actions: &mut Actions) {
        let candidate = self.upgrade.as_mut().and_then(Upgrade::candidate_mut);
        let Some((death, crash)) = candidate.and_then(|c| Some((c.reap()?, c.process().crash())))
        else {
            return;
        };
        let how = exit_report::backend_died(death, crash);
        self.keep_old(&format!("the new backend {how}"), actions);
    }

    /// Gives an upgrade up while the old backend lives: the old one goes on.
    fn keep_old(&mut self, why: &str, actions: &mut Actions) {
        let draining = matches!(self.upgrade, Some(Upgrade::Draining { .. }));
        self.abandon(why, actions);
        if draining {
            actions.push(DeviceAction::Tell(ToDevice::Resume));
        }
    }

    /// What follows the end of the living backend if the upgrade decides, whether or not the
    /// upgrade asked for it.
    pub(super) fn upgrade_goes_on(
        &mut self,
        stop_requested: bool,
        how: &str,
        now_ns: u64,
        actions: &mut Actions,
    ) -> Option<Next> {
        let when = RestartDecision::At(now_ns);
        match &self.upgrade {
            // For the case that the new backend dies meanwhile.
            Some(Upgrade::Switching { .. }) if stop_requested => Some(Next::Backend {
                when,
                after_crash: false,
            }),
            Some(Upgrade::Trial { .. }) => {
                self.abandon(&format!("the new backend {how}"), actions);
                Some(Next::Backend {
                    when,
                    after_crash: true,
                })
            }
            _ => {
                self.abandon(&format!("the old backend {how}"), actions);
                None
            }
        }
    }

    /// The old backend is gone and its I/O has ended: switches to the new one, if there is one.
    pub(super) fn switch(&mut self, now_ns: u64, actions: &mut Actions) -> bool {
        match self.upgrade.take() {
            Some(Upgrade::Switching { next }) => {
                self.live(next.backend, next.pending_io);
                self.await_connection(now_ns + CONNECT_NS);
                actions.push(DeviceAction::Tell(ToDevice::Switch));
                self.upgrade = Some(Upgrade::trial(next.program, now_ns));
                true
            }
            other => {
                self.upgrade = other;
                false
            }
        }
    }

    /// Handles the deadlines of an upgrade.
    pub(super) fn tick_upgrade(
        &mut self,
        context: &SpawnContext,
        now_ns: u64,
        actions: &mut Actions,
    ) {
        self.start_candidate(context, now_ns, actions);
        if let Some(candidate) = self.upgrade.as_mut().and_then(Upgrade::candidate_mut) {
            candidate.identify(self.kind.id(), &context.jailer);
        }
        match (&mut self.upgrade, &mut self.phase) {
            (Some(Upgrade::Opening { until_ns, .. }), _) if *until_ns <= now_ns => {
                self.abandon("its storage does not open the image", actions);
            }
            (Some(Upgrade::Probing { until_ns, .. }), _) if *until_ns <= now_ns => {
                self.abandon("the vmm does not judge the new backend", actions);
            }
            (Some(Upgrade::Draining { until_ns, .. }), _) if *until_ns <= now_ns => {
                self.keep_old(
                    "the old backend has not completed what it has taken",
                    actions,
                );
            }
            (
                Some(Upgrade::Trial {
                    look_ns,
                    since_ns,
                    asked,
                    ..
                }),
                Phase::Alive(life),
            ) if *look_ns <= now_ns => {
                *look_ns = now_ns + LOOK_NS;
                let idle = now_ns >= *since_ns + IDLE_NS && !life.watchdog.is_waited_for();
                let serves = life.is_connected() && (idle || life.backend.has_completed());
                let lives = life.watchdog.is_answered(life.backend.process().health());
                if serves && lives && *asked {
                    self.commit(actions);
                } else if serves && lives {
                    *asked = true;
                    life.backend.ping(life.watchdog.ask(now_ns));
                } else if now_ns >= *since_ns + TRIAL_NS {
                    *look_ns = u64::MAX;
                    life.backend.kill();
                    actions.note(EventKind::BackendLost, "it has not served for 10 s");
                }
            }
            _ => {}
        }
    }

    fn commit(&mut self, actions: &mut Actions) {
        if let Some(Upgrade::Trial { program, .. }) = self.upgrade.take() {
            self.program = Some(program);
            self.restarts.reset_backoff();
            actions.note(EventKind::UpgradeDone, "");
            actions.push(DeviceAction::Answer(Ok(())));
        }
    }
}

/// Reports that there is no candidate and none follows.
fn refuse(why: &str, actions: &mut Actions) {
    actions.note(EventKind::UpgradeRefused, why);
    actions.push(DeviceAction::Answer(Err(why.to_owned())));
}
