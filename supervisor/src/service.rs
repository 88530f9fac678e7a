// SPDX-License-Identifier: Apache-2.0
//! Serves the API's requests.

use std::path::Path;

use ipc::control::{ToDevice, ToVmm};
use ipc::slot::DeviceSlot;
use serde::Serialize;
use spec::api::{DEVICE_SECONDS_MAX, Link, Reboot, Restart, Stop, Stopping, VmInfo, VmState};
use spec::{PowerButton, check_stop_timeout};

use super::api::http::{Refusal, Response};
use super::api::{Command, Topic};
use super::console::History;
use super::devices::UPGRADE_NS;
use super::lifecycle::{Action, Force, Reset};
use super::poll::{ConnectionId, earlier};
use super::replacement::VMM;
use super::{Supervisor, sources};

/// How long the vmm may take to pause or resume.
const ANSWER_NS: u64 = 5_000_000_000;
/// Why a stop is refused while the guest is paused.
const STOP_PAUSED: &str = "the guest is paused and would not notice its power button: \
                           resume it first, or stop it by force";
/// Why a stop is refused that cannot reach the guest.
const NO_BUTTON: &str = "the VM has no power button: stop it by force";
/// Why something is refused that needs a guest.
const NOT_STARTED: &str = "the guest has not started yet";
/// Why something is refused that needs a vmm.
const REPLACING: &str = "the vmm is being replaced";
/// How long a device may take to get another backend: its storage may be slow.
pub(super) const DEVICE_NS: u64 = DEVICE_SECONDS_MAX * 1_000_000_000;
const _: () = assert!(
    UPGRADE_NS < DEVICE_NS,
    "told that it failed, and then it does not"
);

/// A request that is answered once the supervisor has done what it asks for.
#[derive(Debug)]
pub(crate) struct Waiting {
    id: ConnectionId,
    wanted: Wanted,
    deadline_ns: u64,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The vmm pauses or resumes.
    State(VmState),
    /// The device in this slot gets another backend.
    Device(DeviceSlot),
    /// The guest goes on in another vmm, or in the old program's.
    Vmm,
}

impl Supervisor {
    /// Serves a request at once, or lets it wait for the vmm or a device.
    pub(super) fn serve(&mut self, id: ConnectionId, command: Command, now_ns: u64) {
        // Read-only requests may come every second.
        if !command.looks() {
            log::info!("the API is asked for {command:?}");
        }
        if self.replacement.is_some() && !command.looks() && !matches!(command, Command::Stop(_)) {
            let refusal = Refusal::new(409, REPLACING);
            return self.api.answer(id, &Response::Refused(refusal), now_ns);
        }
        let response = match command {
            Command::Info => json(&self.info()),
            Command::Stats => json(&self.stats(now_ns)),
            Command::Stop(stop) => self.stop(stop, now_ns),
            Command::Pause => {
                return self.switch(id, ToVmm::Pause, VmState::Paused, now_ns);
            }
            Command::Resume => {
                return self.switch(id, ToVmm::Resume, VmState::Running, now_ns);
            }
            Command::Events => json(&self.event_log.events()),
            Command::Console => match self.console.history() {
                Some(history) => Response::Bytes(history.all()),
                None => self.no_console(),
            },
            Command::Follow => return self.follow(id, Topic::Events(0), now_ns),
            Command::FollowConsole => match self.console.history().map(History::begin) {
                Some(begin) => return self.follow(id, Topic::Console(begin), now_ns),
                None => self.no_console(),
            },
            Command::Reboot(reboot) => self.reboot(reboot, now_ns),
            Command::Restart(device, Restart { wait }) => {
                match self.restart(id, &device, wait, now_ns) {
                    Some(response) => response,
                    None => return,
                }
            }
            Command::Link(device, Link { up: true }) if self.is_unplugged(&device) => refused(
                &device,
                "its tap was deleted on the host: start the VM anew",
            ),
            Command::Link(device, Link { up }) => match self.devices.set_link(&device, up) {
                Some(slot) => {
                    self.obey(Action::Tell(ToVmm::Device(slot, ToDevice::Link(up))));
                    Response::Done
                }
                None => {
                    let reason = format!("device {device:?}: is not a network card of this VM");
                    Response::Refused(Refusal::new(404, reason))
                }
            },
            Command::Upgrade(device) => match self.upgrade(id, &device, now_ns) {
                Some(refused) => refused,
                None => return,
            },
        };
        self.api.answer(id, &response, now_ns);
    }

    fn follow(&mut self, id: ConnectionId, topic: Topic, now_ns: u64) {
        let sources = sources(&self.event_log, &self.console);
        self.api.follow(id, topic, sources, now_ns);
    }

    fn no_console(&self) -> Response {
        let console = &self.identity.spec.console;
        let reason = format!("its console leads to {console}, not through the supervisor");
        Response::Refused(Refusal::new(409, reason))
    }

    /// Replaces a backend; `None` if the client waits for the next one.
    fn restart(
        &mut self,
        id: ConnectionId,
        device: &str,
        wait: bool,
        now_ns: u64,
    ) -> Option<Response> {
        let Some((slot, found)) = self.devices.find(device) else {
            if device != VMM {
                return Some(no_device(device));
            }
            let refused = self.replace_vmm(None, now_ns);
            return self.await_vmm(id, refused, wait, now_ns);
        };
        match found.restart(now_ns) {
            Err(reason) => return Some(refused(device, &reason)),
            Ok(actions) => self.perform(slot, actions, now_ns),
        }
        if wait {
            self.wait_for(id, Wanted::Device(slot), now_ns);
        }
        (!wait).then_some(Response::Done)
    }

    /// Replaces the program of a device; the response if that is refused.
    fn upgrade(&mut self, id: ConnectionId, device: &str, now_ns: u64) -> Option<Response> {
        let program = self.api.take_descriptor(id);
        let found = self.devices.find(device);
        if found.is_none() && device != VMM {
            return Some(no_device(device));
        }
        let Some(program) = program else {
            let reason = "an upgrade needs the descriptor of a program";
            return Some(Response::Refused(Refusal::new(400, reason)));
        };
        let Some((slot, found)) = found else {
            let refused = self.replace_vmm(Some(program), now_ns);
            return self.await_vmm(id, refused, true, now_ns);
        };
        match found.upgrade(&self.context, program, now_ns) {
            Err(reason) => Some(refused(device, &reason)),
            Ok(actions) => {
                // First: the candidate may have been refused at once, and the client is told so.
                self.wait_for(id, Wanted::Device(slot), now_ns);
                self.perform(slot, actions, now_ns);
                None
            }
        }
    }

    /// Lets a client wait for the replacement of the vmm, unless it was refused.
    fn await_vmm(
        &mut self,
        id: ConnectionId,
        refused: Option<Response>,
        wait: bool,
        now_ns: u64,
    ) -> Option<Response> {
        if refused.is_none() && wait {
            self.wait_for(id, Wanted::Vmm, now_ns);
            return None;
        }
        Some(refused.unwrap_or(Response::Done))
    }

    /// Answers the requests that waited for another vmm.
    pub(super) fn answer_vmm(&mut self, outcome: Result<(), String>, now_ns: u64) {
        let response = match outcome {
            Ok(()) => Response::Done,
            Err(why) => Response::Refused(Refusal::new(409, format!("vmm: {why}"))),
        };
        self.terminate(&response, now_ns, |waiting| waiting.wanted == Wanted::Vmm);
    }

    fn is_unplugged(&mut self, device: &str) -> bool {
        let found = self.devices.find(device);
        found.is_some_and(|(_, device)| device.is_unplugged())
    }

    fn stop(&mut self, stop: Stop, now_ns: u64) -> Response {
        let timeout = match stop.stop_timeout.map(check_stop_timeout).transpose() {
            Ok(timeout) => timeout,
            Err(error) => return Response::Refused(Refusal::new(400, error.to_string())),
        };
        let order = match (stop.force, self.lifecycle.running()) {
            (true, _) => self.lifecycle.end_at_once(Force::Asked),
            (false, _) if self.identity.vm.power_button == PowerButton::None => {
                return Response::Refused(Refusal::new(409, NO_BUTTON));
            }
            (false, VmState::Paused) => {
                return Response::Refused(Refusal::new(409, STOP_PAUSED));
            }
            (false, _) => self.lifecycle.press_power_button(timeout, now_ns),
        };
        self.obey(order);
        json(&Stopping {
            button: (!stop.force).then_some(self.identity.vm.power_button),
            warning: (!stop.force)
                .then(|| self.devices.button_trouble())
                .flatten()
                .map(str::to_owned),
        })
    }

    fn reboot(&mut self, reboot: Reboot, now_ns: u64) -> Response {
        let timeout = match reboot.stop_timeout.map(check_stop_timeout).transpose() {
            Ok(timeout) => timeout,
            Err(error) => return Response::Refused(Refusal::new(400, error.to_string())),
        };
        let refused = |reason| Response::Refused(Refusal::new(409, reason));
        let order = match (self.lifecycle.running(), reboot.force) {
            _ if self.lifecycle.is_to_end() => return refused("the VM has been asked to end"),
            (VmState::Starting, _) => return refused(NOT_STARTED),
            // A guest that starts anew runs, and the client that paused it counts on its standing still.
            (VmState::Paused, _) => return refused("the guest is paused: resume it first"),
            (_, true) => self.lifecycle.reset(Reset::Forced),
            _ if self.identity.vm.power_button == PowerButton::None => {
                return refused("the VM has no power button: reset it by force");
            }
            (_, false) => self.lifecycle.ask_for_reboot(timeout, now_ns),
        };
        self.obey(order);
        Response::Done
    }

    fn wait_for(&mut self, id: ConnectionId, wanted: Wanted, now_ns: u64) {
        self.waiting.push(Waiting {
            id,
            wanted,
            deadline_ns: now_ns + DEVICE_NS,
        });
    }

    fn switch(&mut self, id: ConnectionId, message: ToVmm, wanted: VmState, now_ns: u64) {
        let running = self.lifecycle.running();
        if running == VmState::Starting {
            let refusal = Refusal::new(409, NOT_STARTED);
            self.api.answer(id, &Response::Refused(refusal), now_ns);
        } else if running == wanted && self.waiting.is_empty() {
            self.api.answer(id, &Response::Done, now_ns);
        } else {
            self.obey(Action::Tell(message));
            self.waiting.push(Waiting {
                id,
                wanted: Wanted::State(wanted),
                deadline_ns: now_ns + ANSWER_NS,
            });
        }
    }

    fn info(&self) -> VmInfo {
        let identity = &self.identity;
        VmInfo {
            name: identity.name.clone(),
            state: self.lifecycle.state(),
            spec: identity.spec.clone(),
            cmdline: identity.vm.cmdline.clone(),
            console_socket: self.console.socket().map(Path::to_path_buf),
            pty: self.console.pty().map(str::to_string),
            irqchip: self.irqchip.map(|irqchip| irqchip.name().to_owned()),
            power_button: Some(identity.vm.power_button),
            vmm_replaceable: self.never_replaces_vmm().is_none(),
            reboots: self.lifecycle.reboots(),
            processes: self.processes(),
            devices: self.devices.infos(),
        }
    }

    /// When the next waiting request times out.
    pub(super) fn waiting_deadline_ns(&self) -> Option<u64> {
        let all = self.waiting.iter();
        all.map(|waiting| Some(waiting.deadline_ns))
            .fold(None, earlier)
    }

    /// Answers the requests that waited for this state.
    pub(super) fn answer_waiting(&mut self, now_ns: u64) {
        let running = self.lifecycle.running();
        self.terminate(&Response::Done, now_ns, |waiting| {
            waiting.wanted == Wanted::State(running)
        });
    }

    /// Refuses the requests that have waited too long.
    pub(super) fn tick_waiting(&mut self, now_ns: u64) {
        let late = |waiting: &Waiting, device| {
            let is_device = matches!(waiting.wanted, Wanted::Device(_) | Wanted::Vmm);
            waiting.deadline_ns <= now_ns && is_device == device
        };
        let silent = Response::Refused(Refusal::new(504, "the vmm does not answer"));
        self.terminate(&silent, now_ns, |waiting| late(waiting, false));
        let slow = Response::Refused(Refusal::new(504, "it takes long: see the VM's events"));
        self.terminate(&slow, now_ns, |waiting| late(waiting, true));
    }

    /// Answers the requests for another backend of a device.
    pub(super) fn answer_device(
        &mut self,
        slot: DeviceSlot,
        outcome: Result<(), String>,
        now_ns: u64,
    ) {
        let response = match outcome {
            Ok(()) => Response::Done,
            Err(reason) => {
                let id = self.devices.id(slot);
                refused(&id.unwrap_or_default(), &reason)
            }
        };
        self.terminate(&response, now_ns, |waiting| {
            waiting.wanted == Wanted::Device(slot)
        });
    }

    /// The vmm has ended: refuses all waiting requests.
    pub(super) fn fail_waiting(&mut self, now_ns: u64) {
        let gone = Response::Refused(Refusal::new(503, "the guest has ended or rebooted"));
        self.terminate(&gone, now_ns, |_| true);
    }

    fn terminate(&mut self, response: &Response, now_ns: u64, which: impl Fn(&Waiting) -> bool) {
        for waiting in self.waiting.extract_if(.., |waiting| which(waiting)) {
            self.api.answer(waiting.id, response, now_ns);
        }
    }
}

fn json(answer: &impl Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(text) => Response::Json(text),
        Err(error) => Response::Refused(Refusal::new(500, error.to_string())),
    }
}

fn no_device(id: &str) -> Response {
    let reason = format!("device {id:?}: there is none whose backend is ours");
    Response::Refused(Refusal::new(404, reason))
}

fn refused(id: &str, reason: &str) -> Response {
    Response::Refused(Refusal::new(409, format!("device {id:?}: {reason}")))
}
