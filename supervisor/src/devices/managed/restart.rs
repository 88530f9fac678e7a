// SPDX-License-Identifier: Apache-2.0
//! From the end of a backend to the start of the next one: how it ended, what follows from that,
//! and the end of its I/O.

use ipc::control::ToDevice;
use ipc::health::Crash;
use spec::api::EventKind;

use super::{CONNECT_NS, DeviceAction, HANGUP_PAUSE_NS, ManagedDevice, Phase};
use crate::devices::fence::Fence;
use crate::devices::kind::{BackendError, SpawnContext};
use crate::devices::restarts::RestartDecision;
use crate::process::Death;

impl ManagedDevice {
    /// Handles the end of a backend's process.
    pub(crate) fn exited(&mut self, now_ns: u64) {
        self.listen();
        self.dying.retain_mut(|backend| backend.reap().is_none());
        self.candidate_exited();
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        let Some(death) = life.backend.reap() else {
            return;
        };
        let how = told(death, life.backend.crash());
        let murdered = life.backend.was_killed_externally(death);
        self.note_registration();
        self.hear_loss_told();
        let Phase::Alive(life) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        (self.deadline_ns, self.connected) = (None, false);
        let stop_requested = std::mem::take(&mut self.stop_requested);
        let died = !(self.retiring || self.hung_up || stop_requested);
        self.stats.ended(life.backend.health(), died);
        self.phase = Phase::Fencing(Fence::new(life.pending_io, now_ns));
        if self.retiring {
            log::info!(device_id = self.kind.id(); "the backend {how}");
        } else if self.upgrade_goes_on(stop_requested, &how, now_ns) {
            // The upgrade has decided what follows.
        } else if self.hung_up {
            self.note(EventKind::BackendDied, "because the vmm hung up");
            // Only the backend says so: count it as a crash, so that a backend which always says it
            // is given up, too.
            (self.next, self.after_crash) = (self.crashed_slowly(now_ns), true);
        } else if stop_requested {
            self.note(EventKind::BackendDied, "as asked");
            (self.next, self.after_crash) = (RestartDecision::At(now_ns), false);
        } else {
            self.note(EventKind::BackendDied, how.clone());
            // A request that was in flight at three crashes fails: count only crashes that a
            // request can have caused.
            (self.next, self.after_crash) = (self.restarts.crashed(now_ns), !murdered);
            self.outbox.push(DeviceAction::Died(how));
        }
    }

    /// Handles the end of the dead backend's I/O.
    pub(super) fn fenced(&mut self, took_us: u64, now_ns: u64) {
        let took = format!("{took_us} us after the end of its backend");
        self.note(EventKind::Fenced, took);
        if self.retiring {
            self.phase = Phase::Idle;
        } else if !self.switch(now_ns) {
            match self.next {
                RestartDecision::At(until_ns) => self.phase = Phase::Backoff { until_ns },
                RestartDecision::Never => self.give_up(),
            }
        }
    }

    fn give_up(&mut self) {
        let why = format!("its backends died {} times", self.restarts.total());
        self.phase = Phase::Failed;
        self.outbox.push(DeviceAction::Tell(ToDevice::Fenced));
        self.outbox.push(DeviceAction::Answer(Err(why.clone())));
        self.note(EventKind::Stalled, why);
    }

    pub(super) fn respawn(&mut self, context: &SpawnContext<'_>, now_ns: u64) {
        match self.spawn(context) {
            Ok(stream) => {
                self.deadline_ns = Some(now_ns + CONNECT_NS);
                self.outbox.push(DeviceAction::Attach(stream));
            }
            Err(error) => self.could_not_be(&error, now_ns),
        }
    }

    /// A backend could not be started: handled like a crash.
    pub(super) fn could_not_be(&mut self, error: &BackendError, now_ns: u64) {
        let error = host::log::chain(error);
        self.note(EventKind::BackendDied, format!("could not be: {error}"));
        self.abandon(&format!("the new backend could not be: {error}"));
        match self.crashed_slowly(now_ns) {
            RestartDecision::At(until_ns) => self.phase = Phase::Backoff { until_ns },
            RestartDecision::Never => self.give_up(),
        }
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
