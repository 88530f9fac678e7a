// SPDX-License-Identifier: Apache-2.0
//! Handles the messages of the vmm, up to its last, and of the jailer: the
//! [`lifecycle`](super::lifecycle) decides what follows.

use handover::outcome::Outcome;
use ipc::control::{DeviceNews, FromVmm, ToVmm};
use spec::PowerButton;
use spec::api::EventKind;

use super::devices::AllActions;
use super::jailer_link::LinkEvent;
use super::lifecycle::{Action, Force, Next, VmOutcome};
use super::process::Incoming;
use super::vmm::Vmm;
use super::{Supervisor, SupervisorError, exit_report};

/// How often a dead vmm's socket is read: more often than it can hold messages for.
const HEARINGS_MAX: u32 = 64;

impl Supervisor {
    pub(super) fn obey(&mut self, order: Action) {
        if matches!(
            order,
            Action::WakeAndPress | Action::Tell(ToVmm::PowerButton)
        ) {
            // The vmm presses the board's button, if it has one.
            self.devices.press_button();
        }
        if order == Action::Tell(ToVmm::PowerButton) && self.press_later() {
            return;
        }
        let Some(vmm) = &self.vmm else {
            return self.obey_without_vmm(order);
        };
        match order {
            Action::Nothing => {}
            Action::Kill => vmm.kill(),
            Action::Tell(message) => tell(vmm, message),
            Action::WakeAndPress => {
                tell(vmm, ToVmm::Resume);
                tell(vmm, ToVmm::PowerButton);
            }
        }
    }

    /// Between two vmms no guest runs: a VM that is asked to end, gently or by force, ends.
    fn obey_without_vmm(&mut self, order: Action) {
        match order {
            Action::Kill | Action::WakeAndPress | Action::Tell(ToVmm::PowerButton) => {
                self.outcome = Some(self.verdict(self.lifecycle.ended_between_vmms()));
            }
            Action::Nothing | Action::Tell(_) => {}
        }
    }

    pub(super) fn hear_jailer(&mut self, now_ns: u64) {
        for news in self.context.jailer.listen() {
            let order = match news {
                LinkEvent::Signal(signal @ (libc::SIGHUP | libc::SIGQUIT)) => {
                    self.lifecycle.end_at_once(Force::Signal(signal))
                }
                // The guest cannot be asked.
                LinkEvent::Signal(signal) if self.identity.vm.power_button == PowerButton::None => {
                    self.lifecycle.end_at_once(Force::Signal(signal))
                }
                LinkEvent::Signal(signal) => self.lifecycle.asked_by_signal(signal, now_ns),
                // The jailer is gone: exit, and the kernel kills every process of our pid
                // namespace.
                LinkEvent::Gone => std::process::exit(1),
            };
            log::info!("asked to end: {news:?}");
            self.obey(order);
        }
    }

    /// Reads the vmm's messages; returns whether there were any.
    pub(super) fn hear_vmm(&mut self, now_ns: u64) -> bool {
        let heard = self.vmm.as_mut().map(Vmm::listen).unwrap_or_default();
        let said = !heard.is_empty();
        for heard in heard {
            match heard {
                Incoming::Message(message) => self.hear_message(message, now_ns),
                Incoming::Malformed(what) => {
                    let order = self.lifecycle.heard_malformed(what, now_ns);
                    self.obey(order);
                }
                Incoming::HungUp => self.lifecycle.hung_up(now_ns),
            }
        }
        said
    }

    fn hear_message(&mut self, message: FromVmm, now_ns: u64) {
        self.note(&message);
        // Only once: a vmm that repeats it must not fill the socket to the jailer.
        if message == FromVmm::Started && self.lifecycle.is_first_start() {
            self.context.jailer.tell_started();
        }
        if let FromVmm::Irqchip(irqchip) = message {
            self.irqchip = Some(irqchip);
        }
        if let FromVmm::Device(slot, news) = &message {
            self.hear_of_device(*slot, news, now_ns);
        }
        self.hear_of_replacement(&message, now_ns);
        let order = self.lifecycle.heard(message, now_ns);
        self.obey(order);
        self.answer_waiting(now_ns);
    }

    /// Notes the vmm's messages in the event log or at least in the log, except those that come
    /// every second.
    fn note(&mut self, message: &FromVmm) {
        let kind = match message {
            FromVmm::Started => EventKind::Started,
            FromVmm::Paused => EventKind::Paused,
            FromVmm::Resumed => EventKind::Resumed,
            FromVmm::Device(_, DeviceNews::Outstanding(_)) => return,
            other => return log::info!("the vmm says {other:?}"),
        };
        self.event_log.note(kind, None, "");
    }

    /// Handles the vmm's end; reads the rest of its messages first.
    pub(super) fn reap(&mut self, now_ns: u64) -> Result<(), SupervisorError> {
        // Bounded: another process may hold the vmm's end of the socket, and go on sending.
        for _ in 0..HEARINGS_MAX {
            if !self.hear_vmm(now_ns) {
                break;
            }
        }
        let Some(vmm) = &mut self.vmm else {
            return Ok(());
        };
        let Some(death) = vmm.reap() else {
            return Ok(());
        };
        self.past_exits = self.exits();
        log::info!("the vmm {death}");
        if self.vmm_is_succeeded(death, now_ns) {
            return Ok(());
        }
        let mut retired = AllActions::new();
        match self.lifecycle.died(death, now_ns) {
            Next::Respawn(reset) => {
                let how = exit_report::reset(reset);
                self.event_log.note(EventKind::Rebooted, None, &how);
                // `follow_up` starts the next vmm when the I/O of the backends has ended.
                (self.vmm, self.ram) = (None, None);
                retired = self.devices.retire(now_ns);
            }
            Next::End(outcome_of_vm) => self.outcome = Some(self.verdict(outcome_of_vm)),
        }
        self.fail_waiting(now_ns);
        self.perform_all(retired, now_ns);
        Ok(())
    }

    pub(super) fn verdict(&self, outcome_of_vm: VmOutcome) -> Outcome {
        let context = exit_report::ExitContext {
            vm: &self.identity.vm,
            crash: self
                .vmm
                .as_ref()
                .map_or(ipc::health::Crash::None, Vmm::crash),
            log: self
                .vmm
                .as_ref()
                .map(|vmm| vmm.log_tail(&self.context.log.reader))
                .unwrap_or_default(),
        };
        match (&self.startup_failure, &outcome_of_vm) {
            (Some(line), outcome_of_vm) if !matches!(outcome_of_vm, VmOutcome::Stopped(_)) => {
                exit_report::with_log(line, &context)
            }
            _ => exit_report::outcome(outcome_of_vm, &context),
        }
    }
}

fn tell(vmm: &Vmm, message: ToVmm) {
    if let Err(error) = vmm.tell(message, None) {
        log::warn!("{}", host::log::chain(&error));
    }
}
