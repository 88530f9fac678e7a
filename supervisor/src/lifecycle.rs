// SPDX-License-Identifier: Apache-2.0
//! The VM's state machine. Pure: no descriptor, no clock, no process. The supervisor tells it what
//! has happened and does what it returns.

mod replace;

use std::time::Duration;

use ipc::control::{Ending, Failure, FromVmm, ToVmm};
use spec::OnReboot;
use spec::api::VmState;

use super::death::Death;
use super::poll::earlier;

const SECOND_NS: u64 = 1_000_000_000;
/// How long a vmm may take to exit after it has said that it will.
const EXIT_DEADLINE_NS: u64 = 2 * SECOND_NS;
/// A guest that reboots sooner than this has not really run.
const SHORT_RUN_NS: u64 = 30 * SECOND_NS;
/// So many short runs in a row are a reboot loop.
const STORM_RUNS: u32 = 5;

/// What the supervisor has to do about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// Send the vmm a message.
    Tell(ToVmm),
    /// Let the guest run again, and press its power button.
    WakeAndPress,
    /// Kill the vmm's process.
    Kill,
}

/// What follows the death of a vmm.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A new vmm.
    Respawn(Reset),
    /// The VM has ended.
    End(VmOutcome),
}

/// Why the guest starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// It has reset itself.
    Guest,
    /// It had a triple fault.
    TripleFault,
    /// It was asked to power off, to be started anew, and has.
    Asked,
    /// An API client wanted it at once.
    Forced,
    /// It did not power off within so many seconds.
    Timeout(u64),
}

/// What the guest was asked to power off for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To end the VM.
    End,
    /// To be started anew.
    Reboot,
}

/// Why a VM is ended at once, without its guest's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// An API client asked for it.
    Asked,
    /// This signal asked for it: SIGHUP or SIGQUIT, or a second one of any kind.
    Signal(i32),
    /// The guest did not power off within so many seconds.
    Timeout(u64),
}

/// How a VM ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VmOutcome {
    /// The guest powered off, or rebooted after it was asked to power off.
    Finished,
    /// The guest rebooted, with `on_reboot: exit`.
    Rebooted,
    /// It was ended at once.
    Stopped(Force),
    /// The guest reboots again and again.
    RebootLoop {
        /// How often in a row.
        runs: u32,
        /// Whether the last was a triple fault.
        faulted: bool,
    },
    /// The guest's kernel panicked.
    Panicked,
    /// The guest had a triple fault, and `on_reboot` or a stop rules a restart out.
    TripleFault,
    /// KVM cannot run the guest any further.
    Crashed,
    /// The vmm reported a failure.
    Failed(Failure),
    /// The vmm sent what no vmm sends.
    Malformed(String),
    /// The vmm died without a message.
    Died(Death),
}

/// The last message of a vmm.
#[derive(Debug)]
enum ExitNotice {
    Ended(Ending),
    Failed(Failure),
    Malformed(String),
}

/// The state of a VM.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    on_reboot: OnReboot,
    /// How long a guest may take to power off when asked, if that is limited.
    stop_timeout: Option<Duration>,
    running: VmState,
    /// The guest was asked to power off.
    asked: Option<Asked>,
    /// The guest is being reset at once.
    resetting: Option<Reset>,
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
    /// The vmm reads its messages, although its guest has not started.
    listens: bool,
    /// The guest stands still while another vmm takes it up.
    replacing: bool,
}

impl Lifecycle {
    /// A VM whose first vmm is being started.
    pub(crate) fn new(on_reboot: OnReboot, stop_timeout: Option<Duration>, now_ns: u64) -> Self {
        Self {
            on_reboot,
            stop_timeout,
            running: VmState::Starting,
            asked: None,
            resetting: None,
            stop_by: None,
            forced: None,
            notice: None,
            deadline_ns: None,
            born_ns: now_ns,
            short_runs: 0,
            reboots: 0,
            listens: false,
            replacing: false,
        }
    }

    /// What the VM is doing.
    pub(crate) fn state(&self) -> VmState {
        let leaving = self.asked.is_some() || self.resetting.is_some();
        if leaving || self.forced.is_some() || self.notice.is_some() {
            VmState::Stopping
        } else {
            self.running
        }
    }

    /// Whether the vCPUs run, are paused, or have not started.
    pub(crate) fn running(&self) -> VmState {
        self.running
    }

    /// Whether no guest of this VM has run yet. A failure then is final; later the supervisor waits
    /// and tries again.
    pub(crate) fn is_first_start(&self) -> bool {
        self.running == VmState::Starting && self.reboots == 0 && !self.replacing
    }

    /// Whether the vmm still builds its machine and reads no messages.
    pub(crate) fn is_deaf(&self) -> bool {
        self.running == VmState::Starting && !self.listens
    }

    /// How often the guest has rebooted.
    pub(crate) fn reboots(&self) -> u32 {
        self.reboots
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        earlier(self.deadline_ns, self.stop_by.map(|(at_ns, _)| at_ns))
    }

    /// Handles a message of the vmm.
    pub(crate) fn heard(&mut self, message: FromVmm, now_ns: u64) -> Action {
        match message {
            _ if self.notice.is_some() => {}
            FromVmm::Started | FromVmm::Resumed => self.running = VmState::Running,
            FromVmm::Paused => self.running = VmState::Paused,
            FromVmm::Waiting => self.listens = true,
            FromVmm::Ended(ending) => self.exit_notice(ExitNotice::Ended(ending), now_ns),
            FromVmm::Failed(failure) => self.exit_notice(ExitNotice::Failed(failure), now_ns),
            // What the vmm tells of its machine does not change the VM's state; it is logged.
            FromVmm::Device(..) | FromVmm::Irqchip(_) => {}
            // The replacement handles these.
            FromVmm::Saved | FromVmm::NotSaved(_) => {}
        }
        Action::Nothing
    }

    /// Handles what no vmm sends.
    pub(crate) fn heard_malformed(&mut self, what: String, now_ns: u64) -> Action {
        if self.notice.is_none() {
            self.exit_notice(ExitNotice::Malformed(what), now_ns);
        }
        Action::Kill
    }

    /// The vmm has closed its control socket: it is exiting.
    pub(crate) fn hung_up(&mut self, now_ns: u64) {
        self.deadline_ns.get_or_insert(now_ns + EXIT_DEADLINE_NS);
    }

    fn exit_notice(&mut self, notice: ExitNotice, now_ns: u64) {
        self.notice = Some(notice);
        self.deadline_ns.get_or_insert(now_ns + EXIT_DEADLINE_NS);
    }

    /// Asks the guest to power off within `timeout`, or within the spec's limit. If it was asked
    /// before, the earlier deadline holds.
    pub(crate) fn press_power_button(&mut self, timeout: Option<Duration>, now_ns: u64) -> Action {
        self.ask(Asked::End, timeout, now_ns)
    }

    /// Asks the guest to power off within `timeout`, or within the spec's limit, to be started anew;
    /// then it is reset.
    pub(crate) fn ask_for_reboot(&mut self, timeout: Option<Duration>, now_ns: u64) -> Action {
        self.ask(Asked::Reboot, timeout, now_ns)
    }

    /// Resets the guest without its help.
    pub(crate) fn reset(&mut self, reset: Reset) -> Action {
        self.resetting.get_or_insert(reset);
        Action::Kill
    }

    /// Whether the VM has been asked to end, in whatever way.
    pub(crate) fn is_to_end(&self) -> bool {
        self.asked == Some(Asked::End) || self.forced.is_some()
    }

    fn ask(&mut self, asked: Asked, timeout: Option<Duration>, now_ns: u64) -> Action {
        if self.asked.replace(asked) != Some(asked) {
            self.stop_by = None;
        }
        if let Some(timeout) = timeout.or(self.stop_timeout) {
            let length_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            let stop_by = (now_ns.saturating_add(length_ns), timeout);
            self.stop_by = Some(self.stop_by.map_or(stop_by, |before| before.min(stop_by)));
        }
        Action::Tell(ToVmm::PowerButton)
    }

    /// Handles a signal that asks for the VM's end: the first one presses the power button, the
    /// second ends the VM at once. A paused guest would not notice its power button, and the sender
    /// cannot be told so; it may be the host that shuts down. So a paused guest runs again, to
    /// power off.
    pub(crate) fn asked_by_signal(&mut self, signal: i32, now_ns: u64) -> Action {
        if self.asked == Some(Asked::End) {
            return self.end_at_once(Force::Signal(signal));
        }
        let press = self.press_power_button(None, now_ns);
        match self.running {
            VmState::Paused => Action::WakeAndPress,
            _ => press,
        }
    }

    /// Ends the VM at once.
    pub(crate) fn end_at_once(&mut self, force: Force) -> Action {
        self.forced.get_or_insert(force);
        Action::Kill
    }

    /// The outcome of a VM that was asked to end while no vmm runs.
    pub(crate) fn ended_between_vmms(&self) -> VmOutcome {
        self.forced.map_or(VmOutcome::Finished, VmOutcome::Stopped)
    }

    /// Handles deadlines that have passed.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Action {
        if let Some((_, timeout)) = self.stop_by.take_if(|(at_ns, _)| *at_ns <= now_ns) {
            let seconds = timeout.as_secs();
            return match self.asked {
                Some(Asked::Reboot) => self.reset(Reset::Timeout(seconds)),
                _ => self.end_at_once(Force::Timeout(seconds)),
            };
        }
        match self.deadline_ns {
            Some(deadline) if now_ns >= deadline => {
                self.deadline_ns = None;
                Action::Kill
            }
            _ => Action::Nothing,
        }
    }

    /// Handles the death of the vmm, which is reaped, and all of whose messages were read.
    pub(crate) fn died(&mut self, death: Death, now_ns: u64) -> Next {
        // A guest that has powered off has done what was asked for, although its vmm was still exiting
        // when the time ran out or the next signal came.
        let powered_off = matches!(self.notice, Some(ExitNotice::Ended(Ending::PowerOff)));
        if let (Some(force), false) = (self.forced, powered_off) {
            return Next::End(VmOutcome::Stopped(force));
        }
        match (self.resetting, self.asked) {
            (Some(_), Some(Asked::End)) => return Next::End(VmOutcome::Finished),
            (Some(reset), _) => return self.respawn(reset, now_ns),
            (None, _) => {}
        }
        // A kernel that resets itself so (`reboot=triple`) and a kernel that crashes look alike. A
        // restart is right for both; where there is none, the user must learn of a crash.
        let goes_on = match self.asked {
            None => self.on_reboot == OnReboot::Restart,
            Some(asked) => asked == Asked::Reboot,
        };
        let outcome_of_vm = match self.notice.take() {
            Some(ExitNotice::Ended(Ending::PowerOff | Ending::Reboot))
                if self.asked == Some(Asked::Reboot) && self.forced.is_none() =>
            {
                return self.respawn(Reset::Asked, now_ns);
            }
            Some(ExitNotice::Ended(Ending::PowerOff)) => VmOutcome::Finished,
            Some(ExitNotice::Ended(Ending::Reboot)) if goes_on => {
                return self.rebooted(false, now_ns);
            }
            // A guest that reboots when asked to power off has at least shut down; a new one would
            // never learn that it was asked.
            Some(ExitNotice::Ended(Ending::Reboot)) if self.asked.is_some() => VmOutcome::Finished,
            Some(ExitNotice::Ended(Ending::Reboot)) => VmOutcome::Rebooted,
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

    /// The guest has reset itself. One that does so again and again is ended.
    fn rebooted(&mut self, faulted: bool, now_ns: u64) -> Next {
        self.short_runs = match now_ns.saturating_sub(self.born_ns) {
            ..SHORT_RUN_NS => self.short_runs + 1,
            _ => 0,
        };
        if self.short_runs >= STORM_RUNS {
            let runs = self.short_runs;
            return Next::End(VmOutcome::RebootLoop { runs, faulted });
        }
        let reset = match faulted {
            true => Reset::TripleFault,
            false => Reset::Guest,
        };
        self.respawn(reset, now_ns)
    }

    fn respawn(&mut self, reset: Reset, now_ns: u64) -> Next {
        self.born_ns = now_ns;
        self.reboots = self.reboots.saturating_add(1);
        self.running = VmState::Starting;
        (self.listens, self.replacing) = (false, false);
        self.deadline_ns = None;
        self.asked = None;
        self.resetting = None;
        self.stop_by = None;
        self.notice = None;
        Next::Respawn(reset)
    }
}

#[cfg(test)]
mod tests;
