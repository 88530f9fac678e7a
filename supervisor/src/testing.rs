// SPDX-License-Identifier: Apache-2.0
//! A device of ours and the life of its VM in a world without processes and without time: whatever
//! happens, happens because a script says so. The device, its watch, its upgrades and the lifecycle
//! are the supervisor's own; what is played is the vmm, the backends and the kernel behind them.
//!
//! What must hold whatever happens is checked at every step; it panics if it does not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ipc::control::{DeviceNews, FromVmm, ToDevice};
use ipc::slot::DeviceSlot;
use nix::sys::signal::Signal;
use spec::OnReboot;
use spec::api::{DeviceState, EventKind, VmState};

use super::death::Death;
use super::devices::script::{Actions, DeviceAction, ManagedDevice, Start};
use super::lifecycle::{Action, Force, Lifecycle, Next, VmOutcome};
use super::service::DEVICE_NS;

mod actor;
#[cfg(test)]
mod device_tests;
mod event;
#[cfg(test)]
mod opening_tests;
#[cfg(test)]
mod reboot_tests;
mod scenery;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_tests;

pub use event::Event;

use actor::{Cast, Part, Role, Shortage, behind};
use scenery::CONTEXT;

const MS_NS: u64 = 1_000_000;
const MINUTE_NS: u64 = 60_000 * MS_NS;
/// So many backends, of its own accord, a device may have within a minute: the first, and one after
/// each death but the last that is allowed.
const BIRTHS_MAX: usize = 5;
/// For so long an upgrade may be under way, whatever the vmm does, while no kernel does anything for
/// a backend. Time passes here in steps of up to a minute.
const UPGRADE_NS: u64 = 10 * MINUTE_NS;
/// So much time, of a world in which everybody does what he should, is enough for anything.
const ENOUGH_NS: u64 = 5 * MINUTE_NS;

/// The world.
#[derive(Debug)]
pub struct World {
    now_ns: u64,
    slot: ManagedDevice,
    lifecycle: Lifecycle,
    cast: Cast,
    /// How many of the next backends cannot be had.
    shortage: Rc<Shortage>,
    /// The vmm has found a backend fit: it has something to show to a driver.
    shown: bool,
    /// A guest has run, in this vmm or another.
    has_run: bool,
    /// The guest, the vmm or the user has had a reason to end the VM, since this vmm was started.
    may_end: bool,
    /// The vmm, if there is one; how it died, if it has.
    vmm: Option<Option<Death>>,
    /// What the vmm has been told and has not done.
    told: VecDeque<ToDevice>,
    /// Whom the vmm has judged last.
    probed: Option<usize>,
    /// Until when requests of the API are waited for.
    waiting_ns: Vec<u64>,
    asked: u32,
    answered: u32,
    /// Those who were told that it takes long.
    late: usize,
    /// An upgrade has come to nothing, and whoever asked for it was not told yet.
    refused: bool,
    /// Since when an upgrade is under way, or the kernel was last busy during it.
    upgrading_ns: Option<u64>,
    /// How many upgrades were done.
    upgraded: u32,
    /// When the device took a backend since somebody gave it another chance.
    births_ns: VecDeque<u64>,
    outcome_of_vm: Option<VmOutcome>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A VM whose guest is about to start.
    pub fn new() -> Self {
        let (cast, shortage) = (Cast::default(), Rc::<Shortage>::default());
        let mut world = Self {
            now_ns: 1,
            slot: ManagedDevice::new(Role(Rc::clone(&cast), Rc::clone(&shortage))),
            lifecycle: Lifecycle::new(OnReboot::Restart, None, 1),
            cast,
            shortage,
            shown: false,
            has_run: false,
            may_end: false,
            vmm: None,
            told: VecDeque::new(),
            probed: None,
            waiting_ns: Vec::new(),
            asked: 0,
            answered: 0,
            late: 0,
            refused: false,
            upgrading_ns: None,
            upgraded: 0,
            births_ns: VecDeque::new(),
            outcome_of_vm: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let start = Start {
            now_ns: self.now_ns,
            is_first: self.lifecycle.is_first_start(),
            keeps: false,
        };
        let mut actions = Actions::default();
        let context = CONTEXT.with(Rc::clone);
        let prepared = self.slot.prepare(&context, start, &mut actions);
        let (prepared, link) = prepared.unwrap();
        if let Some(prepared) = prepared {
            let begun = self.slot.begin(&context, prepared, start, &mut actions);
            begun.unwrap();
        }
        let registered = self.slot.register(&context);
        self.vmm = Some(None);
        (self.shown, self.may_end) = (false, false);
        // It is born with the first backend's stream, if there is a backend.
        self.told.clear();
        self.births_ns.clear();
        if let Some(number) = behind(&self.cast, &link.stream) {
            self.told.push_back(ToDevice::Attach);
            self.give_to(number);
        }
        self.perform(actions);
        self.perform(registered);
    }

    /// Something happens, and the supervisor sees to it.
    pub fn step(&mut self, event: Event) {
        if self.outcome_of_vm.is_some() {
            return;
        }
        self.may_end |= event.may_end();
        match event {
            Event::Pass(ms) => self.now_ns += u64::from(ms) * MS_NS,
            Event::Dies(which, how) => self.part(which, |part| {
                let killed = Death::Signalled(Signal::SIGKILL);
                part.die(how.map_or(killed, |status| Death::Exited(status.into())));
            }),
            Event::Says(which, message) => {
                self.part(which, |part| part.say(&message));
                self.slot.listen();
            }
            Event::Beats(which) => self.part(which, |part| part.beat()),
            Event::Claims(which, requests, flags) => {
                self.part(which, |part| part.claim(requests, flags));
            }
            // What is dead begins nothing more.
            Event::Settles(which, busy) => {
                self.part(which, |part| part.busy = busy && part.death.is_none());
            }
            Event::CannotBe(prepared, started) => self.shortage.add(prepared, started),
            Event::Incoming(message) => self.hear_vmm(message),
            Event::VmmDies => self.vmm_dies(),
            Event::Restart => {
                let accepted = self.slot.restart(self.now_ns);
                self.wait_for(accepted);
            }
            Event::Upgrade => {
                let program = scenery::null().into();
                let context = CONTEXT.with(Rc::clone);
                let accepted = self.slot.upgrade(&context, program, self.now_ns);
                self.wait_for(accepted);
            }
            Event::Stop { force } => {
                let order = match force {
                    true => self.lifecycle.end_at_once(Force::Asked),
                    false => self.lifecycle.press_power_button(None, self.now_ns),
                };
                self.obey(order);
            }
        }
        self.turn();
    }

    /// The same turn as the supervisor's.
    fn turn(&mut self) {
        let mut told = false;
        for part in self.cast.borrow_mut().iter_mut() {
            told |= part.is_told();
        }
        if told {
            let actions = self.slot.exited(self.now_ns);
            self.perform(actions);
        }
        let order = self.lifecycle.tick(self.now_ns);
        self.obey(order);
        if self.lifecycle.running() == VmState::Paused {
            self.slot.rest(self.now_ns);
        }
        if self.lifecycle.is_deaf() {
            self.slot.postpone(self.now_ns);
        }
        let actions = CONTEXT.with(|context| self.slot.tick(context, self.now_ns));
        self.perform(actions);
        self.assert_upgrade_ends();
        let waiting = self.waiting_ns.len();
        self.waiting_ns.retain(|until_ns| *until_ns > self.now_ns);
        self.late += waiting - self.waiting_ns.len();
        self.answer(waiting - self.waiting_ns.len());
        if let Some(Some(death)) = self.vmm {
            match self.lifecycle.died(death, self.now_ns) {
                Next::Respawn(_) => {
                    self.vmm = None;
                    let actions = self.slot.retire();
                    self.answer_all();
                    self.perform(actions);
                }
                Next::End(outcome_of_vm) => self.outcome_of_vm = Some(outcome_of_vm),
            }
            self.answer_all();
        }
        let ends_unasked = self.has_run && !self.may_end && self.outcome_of_vm.is_some();
        assert!(!ends_unasked, "a backend ended the VM: {self:?}");
        if self.vmm.is_none() && self.outcome_of_vm.is_none() && self.slot.is_idle() {
            self.begin();
        }
    }

    fn part(&mut self, which: u8, act: impl FnOnce(&mut Part)) {
        let mut cast = self.cast.borrow_mut();
        let count = cast.len();
        if let Some(part) = count.checked_sub(1 + usize::from(which)) {
            act(&mut cast[part]);
        }
    }

    fn hear_vmm(&mut self, message: FromVmm) {
        if self.vmm != Some(None) {
            return;
        }
        let paused = self.lifecycle.running() == VmState::Paused;
        self.shown |= message == device(DeviceNews::Connected);
        self.has_run |= message == FromVmm::Started;
        if let FromVmm::Device(_, news) = &message
            && !(paused && matches!(news, DeviceNews::Outstanding(_)))
        {
            let actions = self.slot.hear(news, self.now_ns);
            self.perform(actions);
        }
        let order = self.lifecycle.heard(message, self.now_ns);
        self.obey(order);
    }

    fn obey(&mut self, order: Action) {
        match (order, self.vmm) {
            (Action::Nothing | Action::Tell(_) | Action::WakeAndPress, Some(_)) => {}
            (Action::Kill, Some(_)) => self.vmm_dies(),
            (Action::Nothing, None) => {}
            (_, None) => {
                let outcome_of_vm = self.lifecycle.ended_between_vmms();
                self.outcome_of_vm.get_or_insert(outcome_of_vm);
                self.answer_all();
            }
        }
    }

    fn vmm_dies(&mut self) {
        if self.vmm == Some(None) {
            self.vmm = Some(Some(Death::Signalled(Signal::SIGKILL)));
        }
    }

    fn perform(&mut self, actions: Actions) {
        for action in actions {
            match action {
                DeviceAction::Attach(stream) => {
                    self.give(&stream);
                    self.told.push_back(ToDevice::Attach);
                }
                DeviceAction::Probe(stream) => {
                    self.probed = behind(&self.cast, &stream);
                    self.told.push_back(ToDevice::Probe);
                }
                DeviceAction::Tell(message) => {
                    match (message, self.probed) {
                        (ToDevice::Switch, Some(probed)) => self.give_to(probed),
                        (ToDevice::Switch, None) => panic!("nobody was judged: {self:?}"),
                        (ToDevice::Fenced, _) => self.assert_none_serves_but(None),
                        _ => {}
                    }
                    self.told.push_back(message);
                }
                DeviceAction::Died(_) if self.lifecycle.is_first_start() => self.vmm_dies(),
                DeviceAction::Died(_) => {}
                DeviceAction::Event(kind, _) => self.note(kind),
                DeviceAction::Answer(outcome) => {
                    let is_no = std::mem::take(&mut self.refused);
                    assert!(!is_no || outcome.is_err(), "refused with success: {self:?}");
                    self.answer_all();
                }
            }
        }
    }

    fn note(&mut self, kind: EventKind) {
        match kind {
            EventKind::BackendStarted => {
                let now_ns = self.now_ns;
                self.births_ns.push_back(now_ns);
                self.births_ns.retain(|then| now_ns < then + MINUTE_NS);
                let prepared = self.births_ns.len();
                assert!(
                    prepared <= BIRTHS_MAX,
                    "{prepared} within a minute: {self:?}"
                );
            }
            EventKind::UpgradeAsked => self.upgrading_ns = Some(self.now_ns),
            EventKind::UpgradeRefused => (self.refused, self.upgrading_ns) = (true, None),
            EventKind::UpgradeRolledBack => {
                (self.refused, self.upgrading_ns) = (true, None);
                // The old program follows, whatever was before.
                self.births_ns.clear();
            }
            EventKind::UpgradeDone => {
                self.births_ns.clear();
                self.upgrading_ns = None;
                self.upgraded += 1;
                let cast = self.cast.borrow();
                let serving = cast.iter().rev().find(|part| part.served);
                let lives = serving.is_some_and(Part::has_beaten);
                assert!(lives, "it never showed that it lives: {self:?}");
            }
            _ => {}
        }
    }

    fn give(&mut self, stream: &OwnedFd) {
        let number = behind(&self.cast, stream);
        self.give_to(number.expect("somebody has the other end"));
    }

    fn give_to(&mut self, number: usize) {
        self.assert_none_serves_but(Some(number));
        let part = &mut self.cast.borrow_mut()[number];
        let on_trial = self.upgrading_ns.is_some();
        let has_proven = self.upgraded > 0 || !part.upgraded;
        assert!(
            on_trial || has_proven,
            "a program that was rolled back: {part:?}"
        );
        part.served = true;
    }

    /// Of all backends that ever had the device none lives, and nothing that it began is under way.
    fn assert_none_serves_but(&self, number: Option<usize>) {
        for (other, part) in self.cast.borrow().iter().enumerate() {
            let is_another = part.served && Some(other) != number;
            let is_over = part.death.is_some() && part.reaped && !part.busy;
            assert!(!is_another || is_over, "{other} and {number:?}: {self:?}");
        }
    }

    fn assert_upgrade_ends(&mut self) {
        let Some(since_ns) = &mut self.upgrading_ns else {
            return;
        };
        if self.cast.borrow().iter().any(|part| part.busy) {
            *since_ns = self.now_ns;
        }
        let time_ns = self.now_ns - *since_ns;
        assert!(time_ns <= UPGRADE_NS, "an upgrade never ends: {self:?}");
    }

    fn wait_for(&mut self, accepted: Result<Actions, String>) {
        self.asked += 1;
        match accepted {
            Ok(actions) => {
                self.waiting_ns.push(self.now_ns + DEVICE_NS);
                self.births_ns.clear();
                self.perform(actions);
            }
            Err(_) => self.answer(1),
        }
    }

    fn answer(&mut self, count: usize) {
        self.answered += u32::try_from(count).unwrap();
    }

    fn answer_all(&mut self) {
        let count = self.waiting_ns.drain(..).count();
        self.answer(count);
    }

    /// From now on everybody does what he should. The device comes to rest, everybody has been
    /// answered once, and a VM that is told to end does.
    pub fn finish(mut self) {
        let enough_ns = self.now_ns + ENOUGH_NS;
        self.waiting_ns.fill(self.now_ns + DEVICE_NS);
        self.late = 0;
        while !self.is_at_rest() {
            assert!(self.now_ns < enough_ns, "it never comes to rest: {self:?}");
            for part in self.cast.borrow_mut().iter_mut() {
                part.busy = false;
                part.beat();
                part.claim(1, 0);
            }
            let heard = match self.told.pop_front() {
                Some(ToDevice::Attach | ToDevice::Switch) => device(DeviceNews::Connected),
                Some(ToDevice::Probe) => device(DeviceNews::Compatible),
                Some(ToDevice::Drain) => device(DeviceNews::Drained),
                _ if self.lifecycle.is_deaf() => FromVmm::Waiting,
                _ if self.shown && self.lifecycle.running() == VmState::Starting => {
                    FromVmm::Started
                }
                _ => device(DeviceNews::Outstanding(Vec::new())),
            };
            self.step(Event::Incoming(heard));
            self.step(Event::Pass(100));
        }
        self.step(Event::Stop { force: true });
        self.step(Event::Pass(0));
        assert!(self.outcome_of_vm.is_some(), "it does not end: {self:?}");
        assert_eq!((self.asked, self.late), (self.answered, 0), "{self:?}");
    }

    fn is_at_rest(&self) -> bool {
        let state = self.slot.info().state;
        let rests = matches!(
            state,
            DeviceState::Serving | DeviceState::Slow | DeviceState::Stalled
        );
        let idle = self.waiting_ns.is_empty() && self.told.is_empty();
        self.outcome_of_vm.is_some() || (rests && idle && self.vmm == Some(None))
    }
}

fn device(news: DeviceNews) -> FromVmm {
    FromVmm::Device(DeviceSlot::FIRST, news)
}
