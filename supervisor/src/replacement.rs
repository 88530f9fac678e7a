// SPDX-License-Identifier: Apache-2.0
//! Replaces the vmm while its guest stands still. The old vmm saves the state of the machine to a memfd
//! and is killed; the next one takes that up on the same memory, with new backends on the same in-flight
//! regions. It says `Paused` once every part is applied and every device has a backend that fits; only
//! then does the guest go on. If it does not come to that, the old program takes up the same state.
//!
//! ```text
//! Saving ──saved──▶ Ending ──reaped──▶ Restoring ──paused──▶ Resuming ──resumed──▶ done
//!   │ not saved                           │ dies, late            ▲
//!   └─▶ refused                           └─▶ RollingBack ─paused─┘
//! ```

mod stages;

use std::os::fd::OwnedFd;

use host::clock::monotonic_ns;
use ipc::control::{Failure, FromVmm, ToVmm};
use ipc::health::KNOWS_SAVE;
use ipc::memfd::{self, Backing};
use spec::api::{EventKind, VmState};

use super::Supervisor;
use super::api::http::{Refusal, Response};
use super::death::Death;
use super::devices::AllActions;
use super::lifecycle::Action;
use super::vmm::Vmm;
pub(crate) use stages::Replacement;
use stages::{RESTORE_NS, SAVE_NS, Stage};

/// The name of the vmm where a device could be named.
pub(crate) const VMM: &str = "vmm";
/// The length of the memfd; a state is shorter.
const STATE_BYTES: u64 = 16 << 20;
impl Supervisor {
    /// Begins to replace the vmm, by the same program or another; the response if that is refused.
    pub(super) fn replace_vmm(
        &mut self,
        program: Option<OwnedFd>,
        now_ns: u64,
    ) -> Option<Response> {
        let refuse =
            |why: String| Some(Response::Refused(Refusal::new(409, format!("vmm: {why}"))));
        if let Some(why) = self.cannot_replace_vmm() {
            return refuse(why);
        }
        let begun = match memfd::shared("machine-state", STATE_BYTES, Backing::Shmem) {
            Ok(state) => self.begin_replacement(program, state, now_ns),
            Err(error) => Err(host::log::chain(&error)),
        };
        begun.err().and_then(refuse)
    }

    /// Why the vmm is not replaced as long as it runs, if that is so.
    pub(super) fn never_replaces_vmm(&self) -> Option<String> {
        let vmm = self.vmm.as_ref();
        if vmm.map_or(0, Vmm::version) < KNOWS_SAVE {
            return Some("it is of an older version, which only a reboot replaces".into());
        }
        if vmm.is_some_and(Vmm::never_saves) {
            let arch = std::env::consts::ARCH;
            let why = format!(
                "the interrupt controllers of {arch} are not saved yet: only a reboot replaces it"
            );
            return Some(why);
        }
        self.devices.cannot_be_handed_over()
    }

    fn cannot_replace_vmm(&self) -> Option<String> {
        match self.lifecycle.state() {
            VmState::Running => {}
            VmState::Paused => return Some("the guest is paused: resume it first".into()),
            VmState::Starting => return Some("the guest has not started yet".into()),
            VmState::Stopping => return Some("the VM has been asked to end or to reboot".into()),
        }
        if self.vmm.as_ref().is_some_and(|vmm| vmm.owes_save) {
            return Some("it has not answered yet when it was to be replaced the last time".into());
        }
        self.never_replaces_vmm()
            .or_else(|| self.devices.cannot_be_kept())
    }

    fn begin_replacement(
        &mut self,
        program: Option<OwnedFd>,
        state: OwnedFd,
        now_ns: u64,
    ) -> Result<(), String> {
        let vmm = self.vmm.as_ref().ok_or("there is none")?;
        let told = vmm.tell(ToVmm::Save, Some(&state));
        told.map_err(|error| host::log::chain(&error))?;
        let asked = match program {
            Some(_) => EventKind::UpgradeAsked,
            None => EventKind::RestartAsked,
        };
        self.event_log.note(asked, Some(VMM), "");
        self.replacement = Some(Replacement::new(program, state, now_ns));
        Ok(())
    }

    /// Handles what the vmm says of its replacement.
    pub(super) fn hear_of_replacement(&mut self, message: &FromVmm, now_ns: u64) {
        let stage = self
            .replacement
            .as_ref()
            .map(|replacement| replacement.stage);
        match (stage, message) {
            (Some(Stage::Saving), FromVmm::Saved) => self.end_old_vmm(now_ns),
            // It saved too late, and was told long since to go on.
            (None, FromVmm::Saved | FromVmm::NotSaved(_)) => {
                if let Some(vmm) = &mut self.vmm {
                    vmm.owes_save = false;
                }
            }
            (Some(Stage::Saving), FromVmm::NotSaved(why)) => self.give_up_saving(why, now_ns),
            (Some(Stage::Restoring), FromVmm::Failed(failure)) => {
                if let Some(replacement) = &mut self.replacement {
                    replacement.why = Some(failure.reason.clone());
                }
            }
            (Some(Stage::Restoring | Stage::RollingBack), FromVmm::Paused) => self.go_on(now_ns),
            (Some(Stage::Resuming), FromVmm::Resumed) => self.finish_replacement(now_ns),
            _ => {}
        }
    }

    /// The old vmm cannot save, or does not say that it has: its guest goes on. It does so as soon as the vmm
    /// reads its messages, before anything that it is told later.
    fn give_up_saving(&mut self, why: &str, now_ns: u64) {
        self.event_log
            .note(EventKind::UpgradeRefused, Some(VMM), why);
        self.obey(Action::Tell(ToVmm::Resume));
        self.end_replacement(Err(why.to_owned()), now_ns);
    }

    /// The old vmm has left its state, and its backends have nothing in progress: all of them are killed.
    fn end_old_vmm(&mut self, now_ns: u64) {
        if let (Some(replacement), Some(vmm)) = (&mut self.replacement, &self.vmm) {
            (replacement.stage, replacement.until_ns) = (Stage::Ending, None);
            self.lifecycle.replace();
            vmm.kill();
            let retired: AllActions = self.devices.retire(now_ns);
            self.perform_all(retired, now_ns);
        }
    }

    /// The next vmm stands where the old one stood: its guest goes on.
    fn go_on(&mut self, now_ns: u64) {
        if let Some(replacement) = &mut self.replacement {
            replacement.stage = Stage::Resuming;
            replacement.until_ns = Some(now_ns + SAVE_NS);
            self.lifecycle.replaced();
            self.obey(Action::Tell(ToVmm::Resume));
        }
    }

    /// The guest has gone on.
    fn finish_replacement(&mut self, now_ns: u64) {
        let Some(replacement) = self.replacement.take() else {
            return;
        };
        if replacement.press {
            self.obey(Action::Tell(ToVmm::PowerButton));
        }
        let paused_us = monotonic_ns().saturating_sub(replacement.since_ns) / 1000;
        let took = format!("the guest stood still for {paused_us} us");
        let outcome = match replacement.why {
            None => {
                self.event_log
                    .note(EventKind::UpgradeDone, Some(VMM), &took);
                if let Some(program) = replacement.program {
                    self.context.binaries.vmm = program;
                }
                Ok(())
            }
            Some(why) => {
                let line = format!("{why}; {took}");
                self.event_log
                    .note(EventKind::UpgradeRolledBack, Some(VMM), &line);
                Err(format!("the old program goes on: {why}"))
            }
        };
        self.answer_vmm(outcome, now_ns);
    }

    fn end_replacement(&mut self, outcome: Result<(), String>, now_ns: u64) {
        let press = self
            .replacement
            .take()
            .is_some_and(|replacement| replacement.press);
        if press {
            self.obey(Action::Tell(ToVmm::PowerButton));
        }
        self.answer_vmm(outcome, now_ns);
    }

    /// Handles a deadline that has passed.
    pub(super) fn tick_replacement(&mut self, now_ns: u64) {
        let Some(replacement) = &mut self.replacement else {
            return;
        };
        if replacement
            .until_ns
            .take_if(|until_ns| *until_ns <= now_ns)
            .is_none()
        {
            return;
        }
        let seconds = RESTORE_NS / 1_000_000_000;
        match replacement.stage {
            Stage::Saving => {
                if let Some(vmm) = &mut self.vmm {
                    vmm.owes_save = true;
                }
                self.give_up_saving("it does not answer", now_ns);
            }
            Stage::Restoring => {
                let why = format!("it has not taken up the machine within {seconds} s");
                replacement.why = Some(why);
                if let Some(vmm) = &self.vmm {
                    vmm.kill();
                }
            }
            // Its storage is slow, not the vmm.
            Stage::RollingBack if self.devices.any_is_opening() => replacement.started(now_ns),
            Stage::RollingBack => {
                let why = replacement.why.take().unwrap_or_default();
                let reason = format!(
                    "the vmm was to be replaced: {why}; and the old program has not taken the guest up again within {seconds} s"
                );
                self.give_up_guest(reason, now_ns);
            }
            Stage::Ending | Stage::Resuming => {
                self.end_replacement(Err("it does not answer".into()), now_ns);
            }
        }
    }

    /// No program takes the guest up: the VM ends.
    fn give_up_guest(&mut self, reason: String, now_ns: u64) {
        let failure = Failure {
            about: None,
            reason,
        };
        let order = self.lifecycle.heard(FromVmm::Failed(failure), now_ns);
        self.obey(order);
        self.obey(Action::Kill);
    }

    /// Handles the end of a vmm that is being replaced, or has replaced one; false if the VM ends with it,
    /// or its guest.
    pub(super) fn vmm_is_succeeded(&mut self, death: Death, now_ns: u64) -> bool {
        let Some(replacement) = &mut self.replacement else {
            return false;
        };
        let goes_on = !self.lifecycle.is_killed()
            && match replacement.stage {
                Stage::Ending => {
                    replacement.stage = Stage::Restoring;
                    true
                }
                Stage::Restoring => replacement.roll_back(&format!("it {death}")),
                Stage::Saving | Stage::RollingBack | Stage::Resuming => false,
            };
        if !goes_on {
            // `reap` answers the client.
            self.replacement = None;
            return false;
        }
        self.lifecycle.replace();
        self.vmm = None;
        let retired: AllActions = self.devices.retire(now_ns);
        self.perform_all(retired, now_ns);
        true
    }

    /// The next vmm could not be started.
    pub(super) fn vmm_could_not_succeed(&mut self, why: &str) {
        if let Some(replacement) = &mut self.replacement {
            replacement.roll_back(why);
        }
    }

    /// Remembers a press of the power button for the next vmm; false if none follows.
    pub(super) fn press_later(&mut self) -> bool {
        match &mut self.replacement {
            Some(replacement) => {
                replacement.press = true;
                true
            }
            None => false,
        }
    }
}
