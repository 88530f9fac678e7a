// SPDX-License-Identifier: Apache-2.0
//! From the end of a backend to the start of the next one: how it ended, what follows from that,
//! and the end of its I/O.

use ipc::control::ToDevice;
use ipc::health::Crash;
use spec::api::EventKind;

use super::{
    Actions, CONNECT_NS, DeviceAction, HANGUP_PAUSE_NS, ManagedDevice, Next, Phase, RunningBackend,
};
use crate::devices::fence::Fence;
use crate::devices::kind::BackendError;
use crate::devices::restarts::RestartDecision;
use crate::process::{Death, SpawnContext};

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
        let how = told(death, life.backend.process().crash());
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

pub(super) fn told(death: Death, crash: Crash) -> String {
    match crash {
        Crash::None => death.to_string(),
        Crash::Panic => "panicked".into(),
        Crash::Engine(errno) => {
            let errno = std::io::Error::from_raw_os_error(errno.try_into().unwrap_or(0));
            format!("could not use its io_uring any more: {errno}")
        }
        Crash::Syscall(number) => {
            let name = host::seccomp::call_name(number);
            format!("was stopped by its seccomp filter, which lacks {name} ({number})")
        }
    }
}
