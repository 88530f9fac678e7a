// SPDX-License-Identifier: Apache-2.0
//! What the API's requests do.

use launch::control::ToVmm;
use nix::unistd::Pid;
use spec::api::{ProcessInfo, VmInfo, VmState};

use super::Supervisor;
use super::api::http::{Refusal, Response};
use super::api::{Command, ConnectionId};
use super::lifecycle::Order;
use super::poll::earlier;
use super::vmm::Vmm;

/// How long the vmm may take to pause or resume.
const ANSWER_NS: u64 = 5_000_000_000;

/// A request that is answered when the vmm has done what it asks for.
#[derive(Debug)]
pub(crate) struct Waiting {
    id: ConnectionId,
    wanted: VmState,
    deadline_ns: u64,
}

impl Supervisor {
    /// Serves a request, or has it wait for the vmm.
    pub(super) fn serve(&mut self, id: ConnectionId, command: Command, now_ns: u64) {
        log::info!("the API is asked for {command:?}");
        let response = match command {
            Command::Info => match serde_json::to_string(&self.info()) {
                Ok(text) => Response::Json(text),
                Err(error) => Response::Refused(Refusal::new(500, error.to_string())),
            },
            Command::Stop(stop) => {
                let order = match stop.force {
                    true => self.lifecycle.end_at_once(),
                    false => self.lifecycle.press_power_button(),
                };
                self.obey(order);
                Response::Done
            }
            Command::Pause => {
                return self.switch(id, ToVmm::Pause, VmState::Paused, now_ns);
            }
            Command::Resume => {
                return self.switch(id, ToVmm::Resume, VmState::Running, now_ns);
            }
        };
        self.api.answer(id, &response, now_ns);
    }

    fn switch(&mut self, id: ConnectionId, message: ToVmm, wanted: VmState, now_ns: u64) {
        let running = self.lifecycle.running();
        if running == VmState::Starting {
            let refusal = Refusal::new(409, "the guest has not started yet");
            self.api.answer(id, &Response::Refused(refusal), now_ns);
        } else if running == wanted && self.waiting.is_empty() {
            self.api.answer(id, &Response::Done, now_ns);
        } else {
            self.obey(Order::Tell(message));
            self.waiting.push(Waiting {
                id,
                wanted,
                deadline_ns: now_ns + ANSWER_NS,
            });
        }
    }

    fn info(&self) -> VmInfo {
        let identity = &self.kit.identity;
        let ours = |role: &str, pid: Pid, spawned_ns| ProcessInfo {
            role: role.into(),
            restarts: 0,
            pid: pid.as_raw(),
            spawned_ns,
            first_run_ns: 0,
            pio_exits: 0,
            mmio_exits: 0,
        };
        let pids = self.kit.pids;
        let jailer = ours("jailer", pids.janitor, identity.started_ns);
        let supervisor = ours("supervisor", pids.supervisor, self.born_ns);
        VmInfo {
            name: identity.name.clone(),
            state: self.lifecycle.state(),
            spec: identity.spec.clone(),
            cmdline: identity.vm.cmdline.clone(),
            pty: self.console.pty().map(str::to_string),
            reboots: self.lifecycle.reboots(),
            processes: [jailer, supervisor]
                .into_iter()
                .chain(self.vmm.as_ref().map(Vmm::info))
                .chain(self.devices.infos())
                .collect(),
        }
    }

    /// When a request has waited long enough.
    pub(super) fn waiting_deadline_ns(&self) -> Option<u64> {
        let all = self.waiting.iter();
        all.map(|waiting| Some(waiting.deadline_ns))
            .fold(None, earlier)
    }

    /// Answers the requests whose wish has come true.
    pub(super) fn answer_waiting(&mut self, now_ns: u64) {
        let running = self.lifecycle.running();
        self.dismiss(&Response::Done, now_ns, |waiting| waiting.wanted == running);
    }

    /// Answers the requests that have waited long enough.
    pub(super) fn tick_waiting(&mut self, now_ns: u64) {
        let late = Response::Refused(Refusal::new(504, "the vmm does not answer"));
        self.dismiss(&late, now_ns, |waiting| waiting.deadline_ns <= now_ns);
    }

    /// The vmm that was asked is gone.
    pub(super) fn fail_waiting(&mut self, now_ns: u64) {
        let gone = Response::Refused(Refusal::new(503, "the guest has ended or rebooted"));
        self.dismiss(&gone, now_ns, |_| true);
    }

    fn dismiss(&mut self, response: &Response, now_ns: u64, which: impl Fn(&Waiting) -> bool) {
        for waiting in self.waiting.extract_if(.., |waiting| which(waiting)) {
            self.api.answer(waiting.id, response, now_ns);
        }
    }
}
