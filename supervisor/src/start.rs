// SPDX-License-Identifier: Apache-2.0
//! Makes the supervisor, and starts a vmm and its backends: the first ones, and after a reboot the next ones, once the I/O of
//! the last ones has ended.

use std::rc::Rc;

use handover::host_resources::{HostResources, RamError};
use host::clock::monotonic_ns;
use ipc::record::{Record as _, RecordError};
use spec::api::{EventKind, ExitStats};

use super::beginning::Beginning;
use super::console_backend::ConsoleBackend;
use super::devices::{AllActions, BeginError, Devices, Start};
use super::event_log::EventLog;
use super::jailer_link::JailerLink;
use super::jails::Jails;
use super::lifecycle::Lifecycle;
use super::log_rotation::LogRotation;
use super::oom_watch::OomWatch;
use super::process::SpawnContext;
use super::retry::Retry;
use super::supervisor_init::Pids;
use super::vmm::{self, Parts, Vmm, VmmError};
use super::{Supervisor, api, profile, supervisor_init};

/// So long after it began, a supervisor's start is over.
const SETTLING_NS: u64 = 500_000_000;

/// The supervisor cannot go on, or cannot start the next vmm now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// There is no launch record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The console could not be connected to a vmm.
    #[error("cannot connect the console")]
    Console(#[source] std::io::Error),
    /// There is no RAM for the next guest.
    #[error("cannot make the guest's memory")]
    Memory(#[from] RamError),
    /// A vmm could not be started.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The devices of a vmm could not be started.
    #[error(transparent)]
    Devices(#[from] BeginError),
    /// poll(2) failed.
    #[error("cannot poll")]
    Poll(#[source] nix::Error),
}

impl Supervisor {
    /// Takes over what the jailer opened.
    pub(super) fn new(
        resources: HostResources,
        jails: Jails,
        jailer: Rc<JailerLink>,
        pids: Pids,
    ) -> Result<Self, SupervisorError> {
        let born_ns = monotonic_ns();
        let vm = &resources.identity.vm;
        let lifecycle = Lifecycle::new(vm.on_reboot, vm.stop_timeout, born_ns);
        let console = ConsoleBackend::new(resources.console);
        let parts = resources.devices;
        let (vm, name) = (&resources.identity.vm, &resources.identity.name);
        let devices = Devices::new(vm, name, parts.images, parts.taps, parts.streams);
        Ok(Self {
            context: SpawnContext {
                vm_id: resources.identity.name.to_string(),
                binaries: resources.binaries,
                log: resources.log,
                jails,
                jailer,
                seccomp: supervisor_init::seccomp_mode(&resources.identity),
                log_format: resources.identity.vm.log_format.into(),
            },
            identity: resources.identity,
            guest: resources.guest,
            pids,
            born_ns,
            settles_ns: Some(born_ns + SETTLING_NS),
            api: api::Server::new(resources.api),
            waiting: Vec::new(),
            console,
            lifecycle,
            irqchip: None,
            event_log: EventLog::default(),
            oom_watch: OomWatch::default(),
            log_rotation: LogRotation::default(),
            vmm: None,
            ram: None,
            replacement: None,
            devices,
            retry: Retry::default(),
            past_exits: ExitStats::default(),
            startup_failure: None,
            outcome: None,
        })
    }

    /// Starts a vmm and its backends, the first ones or the next. The vmm comes first: its start
    /// takes longest, and it talks to no backend in the first half of it.
    pub(super) fn spawn(&mut self) -> Result<(), SupervisorError> {
        let start = Start {
            now_ns: monotonic_ns(),
            is_first: self.lifecycle.is_first_start(),
            keeps: self.replacement.is_some(),
        };
        let mut all = AllActions::new();
        let outcome = self.spawn_all(start, &mut all);
        self.perform_all(all, start.now_ns);
        outcome
    }

    fn spawn_all(&mut self, start: Start, all: &mut AllActions) -> Result<(), SupervisorError> {
        let ram = self.ram(start.keeps)?;
        let (program, state) = self.for_next_vmm(start.now_ns)?;
        let vm = &self.identity.vm;
        let (prepared, links) = self.devices.prepare(&self.context, start, all)?;
        let devices = self.devices.records(vm, &self.identity.name);
        let record = vmm::record(&self.context, vm, devices, Beginning::of(start));
        let console = self.console.for_vmm(start.keeps);
        let parts = Parts {
            ram,
            record: record.write()?,
            console: console.map_err(SupervisorError::Console)?,
            links,
            state,
            program,
        };
        let profile = profile::of_vmm(vm);
        let spec = vmm::spec(&self.guest, parts, profile)?;
        let vmm = self.vmm.insert(Vmm::spawn(&self.context, &spec)?);
        drop(spec);
        self.devices.begin(&self.context, prepared, start, all)?;
        vmm.identify(&self.context.jailer);
        all.extend(self.devices.register(&self.context));
        Ok(())
    }

    /// Starts the next vmm as soon as nothing of the last one is left and every device is ready. If
    /// the host has no room for it now, the supervisor tries again.
    pub(super) fn follow_up(&mut self, now_ns: u64) {
        let is_due = self.vmm.is_none() && self.outcome.is_none() && self.retry.is_due(now_ns);
        if !is_due || !self.devices.are_ready() {
            return;
        }
        match self.spawn() {
            Ok(()) => self.retry = Retry::default(),
            Err(error) => {
                let why = host::log::chain(&error);
                self.vmm_could_not_succeed(&why);
                if self.retry.failed(&why, now_ns) {
                    self.event_log.note(EventKind::StartFailed, None, &why);
                }
                self.vmm = None;
                let all = self.devices.retire(now_ns);
                self.perform_all(all, now_ns);
            }
        }
    }
}
