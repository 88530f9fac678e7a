// SPDX-License-Identifier: Apache-2.0
//! What becomes of a VM, event by event. Pure: no descriptor, no clock, no process; the supervisor
//! tells it what happened and does what it answers.

use launch::control::{Ending, Failure, FromVmm, ToVmm};
use spec::OnReboot;
use spec::api::VmState;

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
pub(crate) enum Order {
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
    /// A fresh one.
    Respawn,
    /// The VM has ended.
    End(Fate),
}

/// How a VM ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The guest powered off, rebooted with `on_reboot: exit`, or did either after it was asked to
    /// power off.
    Finished,
    /// It was ended at once, as asked.
    Stopped,
    /// The guest reboots again and again.
    Storm(u32),
    /// The guest's kernel panicked.
    Panicked,
    /// The guest cannot be run any further.
    Crashed,
    /// The vmm gave up.
    Failed(Failure),
    /// The vmm said what no vmm says.
    Rubbish(String),
    /// The vmm died without a word.
    Died(Death),
}

/// The last words of a vmm.
#[derive(Debug)]
enum Words {
    Ended(Ending),
    Failed(Failure),
    Rubbish(String),
}

/// Where a VM is on its way.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    on_reboot: OnReboot,
    running: VmState,
    /// The guest was asked to power off.
    asked: bool,
    /// The VM is being ended at once.
    forced: bool,
    words: Option<Words>,
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
    pub(crate) fn new(on_reboot: OnReboot, now_ns: u64) -> Self {
        Self {
            on_reboot,
            running: VmState::Starting,
            asked: false,
            forced: false,
            words: None,
            deadline_ns: None,
            born_ns: now_ns,
            short_runs: 0,
            reboots: 0,
            listens: false,
        }
    }

    /// What the VM is doing.
    pub(crate) fn state(&self) -> VmState {
        if self.asked || self.forced || self.words.is_some() {
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
        self.deadline_ns
    }

    /// The vmm said something.
    pub(crate) fn heard(&mut self, message: FromVmm, now_ns: u64) -> Order {
        match message {
            _ if self.words.is_some() => {}
            FromVmm::Started | FromVmm::Resumed => self.running = VmState::Running,
            FromVmm::Paused => self.running = VmState::Paused,
            FromVmm::Waiting => self.listens = true,
            FromVmm::Ended(ending) => self.last_words(Words::Ended(ending), now_ns),
            FromVmm::Failed(failure) => self.last_words(Words::Failed(failure), now_ns),
            // What becomes of a device is not yet the VM's affair; it is in the log.
            FromVmm::Device(..) => {}
        }
        Order::Nothing
    }

    /// The vmm said what no vmm says.
    pub(crate) fn heard_rubbish(&mut self, what: String, now_ns: u64) -> Order {
        if self.words.is_none() {
            self.last_words(Words::Rubbish(what), now_ns);
        }
        Order::Kill
    }

    /// The vmm closed its control socket: it is exiting.
    pub(crate) fn hung_up(&mut self, now_ns: u64) {
        self.deadline_ns.get_or_insert(now_ns + EXIT_DEADLINE_NS);
    }

    fn last_words(&mut self, words: Words, now_ns: u64) {
        self.words = Some(words);
        self.deadline_ns.get_or_insert(now_ns + EXIT_DEADLINE_NS);
    }

    /// Somebody wants the guest to power off.
    pub(crate) fn press_power_button(&mut self) -> Order {
        self.asked = true;
        Order::Tell(ToVmm::PowerButton)
    }

    /// Somebody signalled that the VM is to end: gently at first, at once if they insist. Whoever
    /// sends a signal cannot be told that a paused guest does not hear its power button, and may be
    /// the host that shuts down: it runs again, to the end.
    pub(crate) fn asked_by_signal(&mut self) -> Order {
        match (self.asked, self.running) {
            (true, _) => self.end_at_once(),
            (false, VmState::Paused) => {
                self.asked = true;
                Order::WakeAndPress
            }
            (false, _) => self.press_power_button(),
        }
    }

    /// Somebody wants the VM to end at once.
    pub(crate) fn end_at_once(&mut self) -> Order {
        self.forced = true;
        Order::Kill
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Order {
        match self.deadline_ns {
            Some(deadline) if now_ns >= deadline => {
                self.deadline_ns = None;
                Order::Kill
            }
            _ => Order::Nothing,
        }
    }

    /// The vmm is dead and reaped, and everything it had said was heard.
    pub(crate) fn died(&mut self, death: Death, now_ns: u64) -> Next {
        let fate = match self.words.take() {
            _ if self.forced => Fate::Stopped,
            Some(Words::Ended(Ending::PowerOff)) => Fate::Finished,
            Some(Words::Ended(Ending::Reboot)) => return self.rebooted(now_ns),
            Some(Words::Ended(Ending::Panic)) => Fate::Panicked,
            Some(Words::Ended(Ending::Crash)) => Fate::Crashed,
            Some(Words::Failed(failure)) => Fate::Failed(failure),
            Some(Words::Rubbish(what)) => Fate::Rubbish(what),
            None => Fate::Died(death),
        };
        Next::End(fate)
    }

    fn rebooted(&mut self, now_ns: u64) -> Next {
        // A guest that reboots when told to power off has at least gone down; a fresh one would
        // never hear that it was asked.
        if self.on_reboot == OnReboot::Exit || self.asked {
            return Next::End(Fate::Finished);
        }
        self.short_runs = match now_ns.saturating_sub(self.born_ns) {
            ..SHORT_RUN_NS => self.short_runs + 1,
            _ => 0,
        };
        if self.short_runs >= STORM_RUNS {
            return Next::End(Fate::Storm(self.short_runs));
        }
        self.reboots = self.reboots.saturating_add(1);
        self.running = VmState::Starting;
        self.listens = false;
        self.deadline_ns = None;
        self.born_ns = now_ns;
        Next::Respawn
    }
}

#[cfg(test)]
mod tests;
