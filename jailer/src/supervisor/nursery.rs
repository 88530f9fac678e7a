// SPDX-License-Identifier: Apache-2.0
//! From the copy of the janitor that a supervisor is at its birth to the supervisor it becomes.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use host::seccomp::SeccompError;
use ipc::control::Channel;
use ipc::health::{self, HealthError, HealthPage};
use ipc::seccomp::Mode;
use nix::unistd::Pid;
use spec::Vm;

use super::confine::{self, ConfineError};
use super::endowment::{Endowment, Pids};
use super::jails::Jails;
use super::janitor::Janitor;
use crate::outcome::{Outcome, Status};
use crate::seccomp;

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

/// What a supervisor is born with.
#[derive(Debug)]
pub(crate) struct Nursery {
    pub(crate) endowment: Endowment,
    /// Its end of the link, non-blocking.
    pub(crate) channel: Channel,
    /// Whether the VM has users of its own.
    pub(crate) has_range: bool,
    /// The janitor's process id.
    pub(crate) janitor: Pid,
}

impl Nursery {
    /// The supervisor's whole life; `supervisor` is its process id on the host.
    pub(crate) fn live(self, supervisor: Pid) -> Infallible {
        host::process::take_name(c"supervisor");
        let janitor = Rc::new(Janitor::new(self.channel));
        let pids = Pids {
            janitor: self.janitor,
            supervisor,
        };
        let confined = confined(&self.endowment, &janitor, self.has_range);
        let outcome = match confined {
            Ok(jails) => super::run(self.endowment, jails, Rc::clone(&janitor), pids),
            Err(error) => Outcome::new(Status::Error, [host::log::chain(&error)]),
        };
        janitor.tell_outcome(&outcome);
        std::process::exit(0)
    }

    /// A life in which nothing is done but `act`, in the same jail.
    pub(crate) fn stand_in(self, act: impl FnOnce(&Channel, &Vm) -> Infallible) -> Infallible {
        host::process::take_name(c"supervisor");
        let janitor = Janitor::new(self.channel);
        match confined(&self.endowment, &janitor, self.has_range) {
            Ok(_) => drop(act(janitor.channel(), &self.endowment.identity.vm)),
            Err(error) => crate::outcome::say(&host::log::chain(&error)),
        }
        std::process::exit(1)
    }
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
    filter(endowment.identity.seccomp())?;
    Ok(jails)
}
