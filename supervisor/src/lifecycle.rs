// SPDX-License-Identifier: Apache-2.0
//! What becomes of a VM, event by event. Pure: no descriptor, no clock, no process; the supervisor
//! tells it what happened and does what it answers.

use std::time::Duration;

use ipc::control::{Ending, Failure, FromVmm, ToVmm};
use spec::OnReboot;
use spec::api::VmState;

use super::poll::earlier;
use super::process::Death;

const SECOND_NS: u64 = 1_000_000_000;
/// How long a vmm may take to exit once it has said that it will.
const EXIT_DEADLINE_NS: u64 = 2 * SECOND_NS;
/// A guest that reboots sooner than this has not really run.
const SHORT_RUN_NS: u64 = 30 * SECOND_NS;
/// So many short runs in a row are a storm.
const STORM_RUNS: u32 = 5;

/// What is to be done about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// Send the vmm a message.
    Tell(ToVmm),
    /// Let the guest run again, and press its power button.
    WakeAndPress,
    /// End the vmm's process.
    Kill,
}

/// What follows the death of a vmm.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A fresh one: the guest reset itself, or a triple fault did.
    Respawn {
        /// Whether it was a triple fault.
        faulted: bool,
    },
    /// The VM has ended.
    End(VmOutcome),
}

/// Why a VM is ended at once, without its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// The API was asked for it.
    Asked,
    /// This signal does it: SIGHUP or SIGQUIT, or any that came a second time.
    Signal(i32),
    /// The guest had so many seconds to power off.
    Timeout(u64),
}

/// How a VM ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VmOutcome {
    /// The guest powered off, rebooted with `on_reboot: exit`, or did either after it was asked to
    /// power off.
    Finished,
    /// It was ended at once.
    Stopped(Force),
    /// The guest reboots again and again; the last time by a triple fault, or not.
    RebootLoop {
        /// How often in a row.
        runs: u32,
        /// Whether the last was a triple fault.
        faulted: bool,
    },
    /// The guest's kernel panicked.
    Panicked,
    /// A triple fault, where a reset does not go on.
    TripleFault,
    /// The guest cannot be run any further.
    Crashed,
    /// The vmm gave up.
    Failed(Failure),
    /// The vmm said what no vmm says.
    Malformed(String),
    /// The vmm died without a word.
    Died(Death),
}

/// The last words of a vmm.
#[derive(Debug)]
enum ExitNotice {
    Ended(Ending),
    Failed(Failure),
    Malformed(String),
}

/// Where a VM is on its way.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    on_reboot: OnReboot,
    /// How long a guest that was asked to power off may take, if that is limited.
    stop_timeout: Option<Duration>,
    running: VmState,
    /// The guest was asked to power off.
    asked: bool,
    /// When the guest must have powered off, and how long it had.
    stop_by: Option<(u64, Duration)>,
    /// The VM is being ended at once.
    forced: Option<Force>,
    notice: Option<ExitNotice>,
    /// When the vmm is killed if it has not exited.
    deadline_ns: Option<u64>,
    born_ns: u64,
    short_runs: u32,
    reboots: u32,
    /// A vmm that has not started its guest reads what it is told.
    listens: bool,
}

impl Lifecycle {
    /// A VM whose first vmm is being started.
    pub(crate) fn new(on_reboot: OnReboot, stop_timeout: Option<Duration>, now_ns: u64) -> Self {
        Self {
            on_reboot,
            stop_timeout,
            running: VmState::Starting,
            asked: false,
            stop_by: None,
            forced: None,
            notice: None,
            deadline_ns: None,
            born_ns: now_ns,
            short_runs: 0,
            reboots: 0,
            listens: false,
        }
    }

    /// What the VM is doing.
    pub(crate) fn state(&self) -> VmState {
        if self.asked || self.forced.is_some() || self.notice.is_some() {
            VmState::Stopping
        } else {
            self.running
        }
    }

    /// Whether its vCPUs run, are stopped, or have not begun.
    pub(crate) fn running(&self) -> VmState {
        self.running
    }

    /// Whether no guest of this VM has run yet. What goes wrong then will not get better; later on
    /// it is waited for.
    pub(crate) fn is_first_start(&self) -> bool {
        self.running == VmState::Starting && self.reboots == 0
    }

    /// Whether the vmm still builds its machine, and reads nothing of what it is told.
    pub(crate) fn is_deaf(&self) -> bool {
        self.running == VmState::Starting && !self.listens
    }

    /// How often the guest has rebooted.
    pub(crate) fn reboots(&self) -> u32 {
        self.reboots
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        earlier(self.deadline_ns, self.stop_by.map(|(at_ns, _)| at_ns))
    }

    /// The vmm said something.
    pub(crate) fn heard(&mut self, message: FromVmm, now_ns: u64) -> Action {
        match message {
            _ if self.notice.is_some() => {}
            FromVmm::Started | FromVmm::Resumed => self.running = VmState::Running,
            FromVmm::Paused => self.running = VmState::Paused,
            FromVmm::Waiting => self.listens = true,
            FromVmm::Ended(ending) => self.exit_notice(ExitNotice::Ended(ending), now_ns),
            FromVmm::Failed(failure) => self.exit_notice(ExitNotice::Failed(failure), now_ns),
            // What becomes of a device is not yet the VM's affair; it is in the log.
            FromVmm::Device(..) => {}
        }
        Action::Nothing
    }

    /// The vmm said what no vmm says.
    pub(crate) fn heard_malformed(&mut self, what: String, now_ns: u64) -> Action {
        if self.notice.is_none() {
            self.exit_notice(ExitNotice::Malformed(what), now_ns);
        }
        Action::Kill
    }

    /// The vmm closed its control socket: it is exiting.
    pub(crate) fn hung_up(&mut self, now_ns: u64) {
        self.deadline_ns.get_or_insert(now_ns + EXIT_DEADLINE_NS);
    }

    fn exit_notice(&mut self, notice: ExitNotice, now_ns: u64) {
        self.notice = Some(notice);
        self.deadline_ns.get_or_insert(now_ns + EXIT_DEADLINE_NS);
    }

    /// Asks the guest to power off within `timeout`, or else within what the spec says. The earlier
    /// end holds if it was asked before.
    pub(crate) fn press_power_button(&mut self, timeout: Option<Duration>, now_ns: u64) -> Action {
        self.asked = true;
        if let Some(timeout) = timeout.or(self.stop_timeout) {
            let length_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            let stop_by = (now_ns.saturating_add(length_ns), timeout);
            self.stop_by = Some(self.stop_by.map_or(stop_by, |before| before.min(stop_by)));
        }
        Action::Tell(ToVmm::PowerButton)
    }

    /// A signal asks for the end of the VM: the guest powers off at the first, the second does not
    /// wait for it. The sender of a signal cannot be told that a paused guest does not hear its power
    /// button, and may be the host that shuts down: the guest runs again, to the end.
    pub(crate) fn asked_by_signal(&mut self, signal: i32, now_ns: u64) -> Action {
        if self.asked {
            return self.end_at_once(Force::Signal(signal));
        }
        let press = self.press_power_button(None, now_ns);
        match self.running {
            VmState::Paused => Action::WakeAndPress,
            _ => press,
        }
    }

    /// The VM ends at once.
    pub(crate) fn end_at_once(&mut self, force: Force) -> Action {
        self.forced.get_or_insert(force);
        Action::Kill
    }

    /// How a VM ends that was asked to while no vmm runs.
    pub(crate) fn ended_between_vmms(&self) -> VmOutcome {
        self.forced.map_or(VmOutcome::Finished, VmOutcome::Stopped)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Action {
        if let Some((_, timeout)) = self.stop_by.take_if(|(at_ns, _)| *at_ns <= now_ns) {
            return self.end_at_once(Force::Timeout(timeout.as_secs()));
        }
        match self.deadline_ns {
            Some(deadline) if now_ns >= deadline => {
                self.deadline_ns = None;
                Action::Kill
            }
            _ => Action::Nothing,
        }
    }

    /// The vmm is dead and reaped, and everything it had said was heard.
    pub(crate) fn died(&mut self, death: Death, now_ns: u64) -> Next {
        if let Some(force) = self.forced {
            return Next::End(VmOutcome::Stopped(force));
        }
        // A kernel that resets itself so (`reboot=triple`) and one that crashes look alike. The next
        // run is right for both; where there is none, the user shall know of a crash.
        let goes_on = self.on_reboot == OnReboot::Restart && !self.asked;
        let outcome_of_vm = match self.notice.take() {
            Some(ExitNotice::Ended(Ending::PowerOff)) => VmOutcome::Finished,
            Some(ExitNotice::Ended(Ending::Reboot)) if goes_on => {
                return self.rebooted(false, now_ns);
            }
            // A guest that reboots when told to power off has at least gone down; a fresh one would
            // never hear that it was asked.
            Some(ExitNotice::Ended(Ending::Reboot)) => VmOutcome::Finished,
            Some(ExitNotice::Ended(Ending::TripleFault)) if goes_on => {
                return self.rebooted(true, now_ns);
            }
            Some(ExitNotice::Ended(Ending::TripleFault)) => VmOutcome::TripleFault,
            Some(ExitNotice::Ended(Ending::Panic)) => VmOutcome::Panicked,
            Some(ExitNotice::Ended(Ending::Crash)) => VmOutcome::Crashed,
            Some(ExitNotice::Failed(failure)) => VmOutcome::Failed(failure),
            Some(ExitNotice::Malformed(what)) => VmOutcome::Malformed(what),
            None => VmOutcome::Died(death),
        };
        Next::End(outcome_of_vm)
    }

    fn rebooted(&mut self, faulted: bool, now_ns: u64) -> Next {
        self.short_runs = match now_ns.saturating_sub(self.born_ns) {
            ..SHORT_RUN_NS => self.short_runs + 1,
            _ => 0,
        };
        if self.short_runs >= STORM_RUNS {
            let runs = self.short_runs;
            return Next::End(VmOutcome::RebootLoop { runs, faulted });
        }
        self.reboots = self.reboots.saturating_add(1);
        self.running = VmState::Starting;
        self.listens = false;
        self.deadline_ns = None;
        self.born_ns = now_ns;
        Next::Respawn { faulted }
    }
}

#[cfg(test)]
mod tests;
