// SPDX-License-Identifier: Apache-2.0
//! The supervisor, a process without any privilege: with nothing but what the jailer gave it, it
//! spawns, watches and replaces the VM's processes, serves its API and relays its console.
//!
//! One thread, one poll(2). It tells the [`lifecycle`] what has happened, and the lifecycle
//! decides.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use handover::host_resources::{Guest, HostResources, Identity};
use handover::outcome::Outcome;
use host::clock::monotonic_ns;
use ipc::broker::Status;
use nix::poll::PollFlags;
use spec::api::ExitStats;

mod api;
mod beginning;
mod child;
mod confine;
mod console;
mod console_backend;
mod death;
mod device_events;
mod devices;
mod event_log;
mod exit_report;
mod jailer_link;
mod jails;
mod lifecycle;
mod log_rotation;
mod messages;
mod next_vmm;
mod oom_watch;
mod poll;
mod process;
mod profile;
mod replacement;
mod retry;
mod seccomp;
mod self_test;
mod service;
mod shutdown;
mod start;
mod stats;
mod supervisor_init;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vmm;

pub use api::http;
pub use api::route::{ROUTES, Route};
pub use self_test::{self_test, self_test_with_filter};
pub use supervisor_init::{live, stand_in};

use console_backend::ConsoleBackend;
use devices::Devices;
use event_log::EventLog;
use jailer_link::JailerLink;
use jails::Jails;
use lifecycle::Lifecycle;
use log_rotation::LogRotation;
use oom_watch::OomWatch;
use poll::{Interests, Token, earlier};
use process::SpawnContext;
use replacement::Replacement;
use retry::Retry;
use service::Waiting;
use start::SupervisorError;
use supervisor_init::Pids;
use vmm::Vmm;

#[derive(Debug)]
struct Supervisor {
    /// What the VM's processes are started from.
    context: SpawnContext,
    identity: Identity,
    guest: Guest,
    pids: Pids,
    born_ns: u64,
    /// Until the supervisor's own start is over.
    settles_ns: Option<u64>,
    api: api::Server,
    waiting: Vec<Waiting>,
    console: ConsoleBackend,
    lifecycle: Lifecycle,
    /// What the vmm says of its machine.
    irqchip: Option<ipc::irqchip::Irqchip>,
    event_log: EventLog,
    oom_watch: OomWatch,
    log_rotation: LogRotation,
    // Before the devices, so that the vmm is dropped first.
    vmm: Option<Vmm>,
    /// The memory of the guest, for a vmm that takes it up from another.
    ram: Option<OwnedFd>,
    /// The replacement of the vmm that is under way.
    replacement: Option<Replacement>,
    devices: Devices,
    /// When to try again to start the next vmm, if it could not be started.
    retry: Retry,
    /// The vCPU exits of all dead vmms.
    past_exits: ExitStats,
    /// The device that kept the VM from starting.
    startup_failure: Option<String>,
    outcome: Option<Outcome>,
}

/// Runs the VM from its first vmm to its end.
fn run(resources: HostResources, jails: Jails, jailer: Rc<JailerLink>, pids: Pids) -> Outcome {
    for line in &resources.missing {
        log::warn!("{line}");
    }
    let ended = Supervisor::new(resources, jails, jailer, pids).and_then(|mut supervisor| {
        supervisor.spawn()?;
        loop {
            supervisor.turn()?;
            if let Some(outcome) = supervisor.outcome.take() {
                supervisor.shut_down(&outcome)?;
                return Ok(outcome);
            }
        }
    });
    ended.unwrap_or_else(|error| Outcome::new(Status::Error, [host::log::chain(&error)]))
}

/// What clients follow.
fn sources<'a>(events: &'a EventLog, console: &'a ConsoleBackend) -> api::Sources<'a> {
    let console = console.history();
    api::Sources { events, console }
}

impl Supervisor {
    /// Waits until something happens, and handles it.
    fn turn(&mut self) -> Result<(), SupervisorError> {
        let ready = self.wait()?;
        let now_ns = monotonic_ns();
        let mut exited = false;
        for (token, events) in ready {
            match token {
                // Read below in any case.
                Token::Jailer => {}
                Token::Exit => exited = true,
                Token::Control => drop(self.hear_vmm(now_ns)),
                Token::BackendExit(slot) => self.backend_exited(slot, now_ns),
                Token::BackendControl(slot) => self.hear_backend(slot),
                Token::ApiListener | Token::Api(_) => self.api.ready(token, events, now_ns),
                Token::ConsoleListener | Token::ConsoleClient | Token::ConsoleVmm => {
                    self.console.ready(token, events, now_ns);
                }
            }
        }
        self.hear_jailer(now_ns);
        while let Some((id, command)) = self.api.next_command(now_ns) {
            self.serve(id, command, now_ns);
        }
        self.tick(now_ns);
        if exited {
            self.reap(now_ns)?;
        }
        self.api
            .publish(sources(&self.event_log, &self.console), now_ns);
        self.follow_up(now_ns);
        Ok(())
    }

    fn wait(&self) -> Result<Vec<(Token, PollFlags)>, SupervisorError> {
        let mut interests = Interests::default();
        interests.add(
            Token::Jailer,
            self.context.jailer.as_fd(),
            PollFlags::POLLIN,
        );
        if let Some(vmm) = &self.vmm {
            interests.add(Token::Exit, vmm.process().exit_fd(), PollFlags::POLLIN);
            if let Some(control) = vmm.process().control_fd() {
                interests.add(Token::Control, control, PollFlags::POLLIN);
            }
        }
        self.devices.interests(&mut interests);
        self.api.interests(&mut interests);
        self.console.interests(&mut interests);
        let deadlines = [
            self.devices.deadline_ns(),
            self.lifecycle.deadline_ns(),
            self.api.deadline_ns(),
            self.console.deadline_ns(),
            self.waiting_deadline_ns(),
            Some(self.log_rotation.deadline_ns()),
            self.settles_ns,
            self.retry.deadline_ns(),
            self.replacement.as_ref().and_then(Replacement::deadline_ns),
        ];
        let deadline = deadlines.into_iter().fold(None, earlier);
        let wait_ns = deadline.map(|deadline| deadline.saturating_sub(monotonic_ns()));
        interests.wait(wait_ns).map_err(SupervisorError::Poll)
    }

    fn tick(&mut self, now_ns: u64) {
        let order = self.lifecycle.tick(now_ns);
        self.obey(order);
        self.tick_devices(now_ns);
        self.tell_oom_kills();
        self.api.tick(now_ns);
        self.console.tick(now_ns);
        self.tick_waiting(now_ns);
        self.tick_replacement(now_ns);
        self.log_rotation.tick(&self.context.log, now_ns);
        if self.settles_ns.take_if(|at| *at <= now_ns).is_some() {
            host::image::let_go();
        }
    }
}
