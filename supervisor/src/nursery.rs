// SPDX-License-Identifier: Apache-2.0
//! From the copy of the janitor that a supervisor is at its birth to the supervisor it becomes.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use handover::endowment::Endowment;
use handover::nursery::Nursery;
use handover::outcome::Outcome;
use host::seccomp::SeccompError;
use ipc::broker::Status;
use ipc::control::Channel;
use ipc::health::{self, HealthError, HealthPage};
use ipc::seccomp::Mode;
use nix::unistd::Pid;
use spec::Vm;

use super::confine::{self, ConfineError};
use super::identity;
use super::jails::Jails;
use super::janitor::Janitor;
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
    /// Its filter could not be installed.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// What the first processes are called on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pids {
    pub(crate) janitor: Pid,
    pub(crate) supervisor: Pid,
}

/// The supervisor's whole life; `supervisor` is its process id on the host.
pub fn live(nursery: Nursery, supervisor: Pid) -> Infallible {
    host::process::take_name(c"supervisor");
    let janitor = Rc::new(Janitor::new(nursery.channel));
    let pids = Pids {
        janitor: nursery.janitor,
        supervisor,
    };
    let confined = confined(&nursery.endowment, &janitor, nursery.has_range);
    let outcome = match confined {
        Ok(jails) => super::run(nursery.endowment, jails, Rc::clone(&janitor), pids),
        Err(error) => Outcome::new(Status::Error, [host::log::chain(&error)]),
    };
    janitor.tell_outcome(&outcome);
    std::process::exit(0)
}

/// A life in which nothing is done but `act`, in the same jail, with its end of the link to the
/// janitor. For tests of the janitor.
pub fn stand_in(nursery: Nursery, act: impl FnOnce(&Channel, &Vm) -> Infallible) -> Infallible {
    host::process::take_name(c"supervisor");
    let janitor = Janitor::new(nursery.channel);
    match confined(&nursery.endowment, &janitor, nursery.has_range) {
        Ok(_) => drop(act(janitor.channel(), &nursery.endowment.identity.vm)),
        Err(error) => handover::outcome::say(&host::log::chain(&error)),
    }
    std::process::exit(1)
}

/// The last step: from here on there is no way to a file, a mount or another namespace.
fn filter(mode: Mode) -> Result<(), BirthError> {
    if mode == Mode::Trap {
        // Nobody reads the page, which goes with the process; the log has the call's name.
        let page = health::create()?;
        let page = Box::leak(Box::new(HealthPage::map(&page)?));
        host::seccomp::report_violations(page)?;
    }
    Ok(seccomp::SUPERVISOR.install(mode)?)
}

fn confined(
    endowment: &Endowment,
    janitor: &Janitor,
    has_range: bool,
) -> Result<Jails, BirthError> {
    let mut kept = endowment.descriptors();
    kept.push(janitor.as_fd().as_raw_fd());
    kept.sort_unstable();
    let (null, log) = (&endowment.binaries.null, &endowment.log.writer);
    confine::keep_only(&kept, null.as_raw_fd(), log.as_raw_fd())?;
    let name = endowment.identity.name.as_str();
    host::log::init("supervisor", name, log::LevelFilter::Info);
    let processes = confine::confine(has_range)?;
    let jails = Jails::new(processes, has_range);
    filter(identity::seccomp(&endowment.identity))?;
    Ok(jails)
}
