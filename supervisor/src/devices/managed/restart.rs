// SPDX-License-Identifier: Apache-2.0
//! From the end of a backend to the start of the next one: how it ended, what follows from that,
//! and the end of its I/O.

use std::collections::VecDeque;

use ipc::control::ToDevice;
use spec::api::EventKind;

use super::{
    Actions, CONNECT_NS, DeviceAction, HANGUP_PAUSE_NS, ManagedDevice, Next, Phase, RunningBackend,
};
use crate::death::Death;
use crate::devices::fence::Fence;
use crate::devices::kind::BackendError;
use crate::exit_report;
use crate::process::SpawnContext;

const MS_NS: u64 = 1_000_000;
/// The pauses before the first, second, ... restart within [`WINDOW_NS`]; the last one repeats.
const PAUSES_NS: [u64; 4] = [0, 10 * MS_NS, 100 * MS_NS, 1000 * MS_NS];
/// How long a crash counts.
const WINDOW_NS: u64 = 60_000 * MS_NS;
/// So many crashes within the window stall the device.
const CRASHES_MAX: usize = 5;

/// What follows a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Another backend, not before this time.
    At(u64),
    /// No other backend.
    Never,
}

/// The crashes of one device's backends.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    recent_ns: VecDeque<u64>,
    total: u32,
}

impl Restarts {
    /// Counts the death of a backend.
    pub(crate) fn crashed(&mut self, now_ns: u64) -> RestartDecision {
        self.total = self.total.saturating_add(1);
        let old = |then: &u64| now_ns.saturating_sub(*then) >= WINDOW_NS;
        while self.recent_ns.front().is_some_and(old) {
            self.recent_ns.pop_front();
        }
        let before = self.recent_ns.len();
        self.recent_ns.push_back(now_ns);
        if self.recent_ns.len() >= CRASHES_MAX {
            return RestartDecision::Never;
        }
        let pause_ns = PAUSES_NS[before.min(PAUSES_NS.len() - 1)];
        RestartDecision::At(now_ns + pause_ns)
    }

    /// Forgets past crashes, so that the next backend follows at once.
    pub(crate) fn reset_backoff(&mut self) {
        self.recent_ns.clear();
    }

    /// How many backends have died.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}

impl ManagedDevice {
    /// Handles the end of a backend's process.
    pub(crate) fn exited(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        self.listen();
        self.dying.retain_mut(|backend| backend.reap().is_none());
        self.candidate_exited(&mut actions);
        let Phase::Alive(life) = &mut self.phase else {
            return actions;
        };
        let Some(death) = life.backend.reap() else {
            return actions;
        };
        self.note_registration(&mut actions);
        self.hear_loss_told();
        if let Phase::Alive(life) = std::mem::replace(&mut self.phase, Phase::Idle) {
            let died = !(life.retired || life.hung_up || life.stop_requested);
            self.stats.ended(life.backend.process().health(), died);
            let next = self.next(&life, death, now_ns, &mut actions);
            let fence = Fence::new(life.pending_io, now_ns);
            self.phase = Phase::Fencing { fence, next };
        }
        actions
    }

    /// What follows the death of this backend.
    fn next(
        &mut self,
        life: &RunningBackend,
        death: Death,
        now_ns: u64,
        actions: &mut Actions,
    ) -> Next {
        let how = exit_report::backend_died(death, life.backend.process().crash());
        if life.retired {
            log::info!(device_id = self.kind.id(); "the backend {how}");
            return Next::Idle;
        }
        if let Some(next) = self.upgrade_goes_on(life.stop_requested, &how, now_ns, actions) {
            return next;
        }
        if life.hung_up {
            actions.note(EventKind::BackendDied, "because the vmm hung up");
            // Only the backend says so: count it as a crash, so that a backend which always says it
            // is given up, too.
            let when = self.crashed_slowly(now_ns);
            return Next::Backend {
                when,
                after_crash: true,
            };
        }
        if life.stop_requested {
            actions.note(EventKind::BackendDied, "as asked");
            return Next::Backend {
                when: RestartDecision::At(now_ns),
                after_crash: false,
            };
        }
        actions.note(EventKind::BackendDied, how.clone());
        actions.push(DeviceAction::Died(how));
        Next::Backend {
            when: self.restarts.crashed(now_ns),
            // A request that was in flight at three crashes fails: count only crashes that a
            // request can have caused.
            after_crash: !life.backend.was_killed_externally(death),
        }
    }

    /// Looks whether the dead backend's I/O has ended.
    pub(super) fn tick_fence(
        &mut self,
        context: &SpawnContext,
        now_ns: u64,
        actions: &mut Actions,
    ) {
        let Phase::Fencing { fence, next } = &mut self.phase else {
            return;
        };
        let next = *next;
        let Some(took_us) = fence.ended(self.kind.id(), &context.jailer, now_ns) else {
            return;
        };
        let took = format!("{took_us} us after the end of its backend");
        actions.note(EventKind::Fenced, took);
        match next {
            Next::Idle => self.phase = Phase::Idle,
            Next::Backend { .. } if self.switch(now_ns, actions) => {}
            Next::Backend { when, after_crash } => self.back_off(when, after_crash, actions),
        }
    }

    /// Waits for the next backend's time, or gives up.
    fn back_off(&mut self, when: RestartDecision, after_crash: bool, actions: &mut Actions) {
        if let RestartDecision::At(until_ns) = when {
            self.phase = Phase::Backoff {
                until_ns,
                after_crash,
            };
            return;
        }
        let why = format!("its backends died {} times", self.restarts.total());
        self.phase = Phase::Failed { after_crash };
        actions.push(DeviceAction::Tell(ToDevice::Fenced));
        actions.push(DeviceAction::Answer(Err(why.clone())));
        actions.note(EventKind::Stalled, why);
    }

    /// Starts the next backend and has the vmm attach the device to it.
    pub(super) fn respawn(&mut self, context: &SpawnContext, now_ns: u64, actions: &mut Actions) {
        match self.spawn(context) {
            Ok(stream) => {
                self.await_connection(now_ns + CONNECT_NS);
                actions.push(DeviceAction::Attach(stream));
            }
            Err(error) => self.could_not_be(&error, now_ns, actions),
        }
    }

    /// A backend could not be started: handled like a crash.
    pub(super) fn could_not_be(
        &mut self,
        error: &BackendError,
        now_ns: u64,
        actions: &mut Actions,
    ) {
        let error = host::log::chain(error);
        actions.note(EventKind::BackendDied, format!("could not be: {error}"));
        self.abandon(&format!("the new backend could not be: {error}"), actions);
        let when = self.crashed_slowly(now_ns);
        self.back_off(when, self.after_crash(), actions);
    }

    /// Counts a death after which the vmm may die, too, or the next backend for the same reason:
    /// the next one never starts at once.
    fn crashed_slowly(&mut self, now_ns: u64) -> RestartDecision {
        match self.restarts.crashed(now_ns) {
            RestartDecision::At(then_ns) => {
                RestartDecision::At(then_ns.max(now_ns + HANGUP_PAUSE_NS))
            }
            RestartDecision::Never => RestartDecision::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_in_a_row_are_followed_later_and_later_and_then_not() {
        let mut restarts = Restarts::default();
        for pause_ms in [0, 10, 100, 1000] {
            assert_eq!(
                restarts.crashed(5),
                RestartDecision::At(5 + pause_ms * 1_000_000)
            );
        }
        assert_eq!(restarts.crashed(5), RestartDecision::Never);
        assert_eq!(restarts.total(), 5);
    }

    #[test]
    fn crashes_forgiven_do_not_count() {
        let mut restarts = Restarts::default();
        while restarts.crashed(5) != RestartDecision::Never {}
        restarts.reset_backoff();
        assert_eq!(restarts.crashed(5), RestartDecision::At(5));
        assert_eq!(restarts.total(), 6);
    }

    #[test]
    fn crashes_long_ago_do_not_count() {
        let mut restarts = Restarts::default();
        for n in 0..20 {
            let now_ns = n * WINDOW_NS / 3;
            let RestartDecision::At(then_ns) = restarts.crashed(now_ns) else {
                unreachable!("a crash every 20 s is bearable");
            };
            assert!(then_ns <= now_ns + PAUSES_NS[2]);
        }
    }

    #[test]
    fn crash_counts_for_a_minute_and_not_longer() {
        const MINUTE_NS: u64 = 60_000_000_000;
        let second_after = |ns| {
            let mut restarts = Restarts::default();
            restarts.crashed(5);
            restarts.crashed(5 + ns)
        };
        let then_ns = 5 + MINUTE_NS;
        assert_eq!(second_after(MINUTE_NS), RestartDecision::At(then_ns));
        let then_ns = 5 + MINUTE_NS - 1 + 10_000_000;
        assert_eq!(second_after(MINUTE_NS - 1), RestartDecision::At(then_ns));
    }
}
