// SPDX-License-Identifier: Apache-2.0
//! Turns a clone of the jailer into the supervisor.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use handover::host_resources::{HostResources, Identity};
use handover::outcome::Outcome;
use handover::supervisor_init::SupervisorInit;
use host::seccomp::SeccompError;
use ipc::broker::Status;
use ipc::control::Channel;
use ipc::health::{self, HealthError, HealthPage};
use ipc::seccomp::Mode;
use nix::unistd::Pid;
use spec::{Seccomp, Vm};

use super::confine::{self, ConfineError};
use super::jailer_link::JailerLink;
use super::jails::Jails;
use super::seccomp;

/// A supervisor could not be confined.
#[derive(Debug, thiserror::Error)]
enum BirthError {
    /// Its jail could not be built.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// There is no health page.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// There is no handler for SIGSYS.
    #[error("cannot handle SIGSYS")]
    Handler(#[from] nix::Error),
    /// It could not go where it is to run.
    #[error("cannot run on the processors of the supervisor")]
    Place(#[source] std::io::Error),
    /// Its filter could not be installed.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// The host's process ids of the first processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pids {
    pub(crate) jailer: Pid,
    pub(crate) supervisor: Pid,
}

/// The supervisor's entry point; `supervisor` is its process id on the host.
pub fn live(init: SupervisorInit, supervisor: Pid) -> Infallible {
    host::process::take_name(c"supervisor");
    let jailer = Rc::new(JailerLink::new(init.channel));
    let pids = Pids {
        jailer: init.jailer,
        supervisor,
    };
    let confined = confined(&init.resources, &jailer, init.has_range);
    let outcome = match confined {
        Ok(jails) => super::run(init.resources, jails, Rc::clone(&jailer), pids),
        Err(error) => Outcome::new(Status::Error, [host::log::chain(&error)]),
    };
    jailer.tell_outcome(&outcome);
    std::process::exit(0)
}

/// Confines itself like a supervisor and runs only `act`, with its end of the socket to the jailer.
/// For tests of the jailer.
pub fn stand_in(init: SupervisorInit, act: impl FnOnce(&Channel, &Vm) -> Infallible) -> Infallible {
    host::process::take_name(c"supervisor");
    let jailer = JailerLink::new(init.channel);
    match confined(&init.resources, &jailer, init.has_range) {
        Ok(_) => drop(act(jailer.channel(), &init.resources.identity.vm)),
        Err(error) => handover::outcome::say(&host::log::chain(&error)),
    }
    std::process::exit(1)
}

/// The last step: from here on no system call opens a file, mounts, or enters another namespace.
fn filter(mode: Mode) -> Result<(), BirthError> {
    if mode == Mode::Trap {
        // No process reads this page; the log has the name of the call.
        let page = health::create()?;
        let page = Box::leak(Box::new(HealthPage::map(&page)?));
        host::seccomp::report_violations(page)?;
    }
    Ok(seccomp::SUPERVISOR.install(mode)?)
}

fn confined(
    resources: &HostResources,
    jailer: &JailerLink,
    has_range: bool,
) -> Result<Jails, BirthError> {
    let mut kept = resources.descriptors();
    kept.push(jailer.as_fd().as_raw_fd());
    kept.sort_unstable();
    let (null, log) = (&resources.binaries.null, &resources.log.writer);
    confine::keep_only(&kept, null.as_raw_fd(), log.as_raw_fd())?;
    let name = resources.identity.name.as_str();
    let format = resources.identity.vm.log_format.into();
    host::log::init("supervisor", name, format);
    if let Some(cpus) = resources.identity.vm.affinity.of_supervisor() {
        // The jailer has found them allowed.
        host::affinity::place(&cpus).map_err(|e| BirthError::Place(e.into()))?;
    }
    let processes = confine::confine(has_range)?;
    let jails = Jails::new(processes, has_range);
    filter(seccomp_mode(&resources.identity))?;
    Ok(jails)
}

/// What the kernel does about a system call outside the filters.
pub(crate) fn seccomp_mode(identity: &Identity) -> Mode {
    match identity.vm.seccomp {
        Seccomp::On => Mode::Kill,
        Seccomp::Log => Mode::Trap,
    }
}
