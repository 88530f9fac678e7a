// SPDX-License-Identifier: Apache-2.0
//! What all jails of a VM share, prepared once, and the part of building one that only the
//! supervisor can do: a child cannot map its own users.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use handover::users::supervisors_user;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::profile::Profile;

/// The jails of one VM.
#[derive(Debug)]
pub(crate) struct Jails {
    /// The root of a procfs of our own pid namespace.
    processes: OwnedFd,
    /// Whether the VM has users of its own.
    has_range: bool,
}

/// A child's users could not be mapped.
#[derive(Debug, thiserror::Error)]
#[error("{file} of process {pid}")]
pub(crate) struct MapError {
    file: &'static str,
    pid: Pid,
    #[source]
    source: Errno,
}

impl Jails {
    /// Takes the procfs of this pid namespace.
    pub(crate) fn new(processes: OwnedFd, has_range: bool) -> Self {
        Self {
            processes,
            has_range,
        }
    }

    /// Whether the VM has users of its own, so that children can change groups.
    pub(crate) fn has_range(&self) -> bool {
        self.has_range
    }

    /// Maps the user of its profile for a child that waits at its gate.
    pub(crate) fn map(&self, pid: Pid, profile: &Profile) -> Result<(), MapError> {
        let user = profile.user;
        // Without a range all processes are the same user on the host.
        let outside = match self.has_range {
            true => user,
            false => supervisors_user(false),
        };
        let map = format!("{user} {outside} 1");
        self.write(pid, "uid_map", &map)?;
        self.write(pid, "gid_map", &map)?;
        let badness = profile.oom_score_adj.to_string();
        if let Err(error) = self.write(pid, "oom_score_adj", &badness) {
            // The starter set a higher value, which an unprivileged process may not lower.
            log::info!("{}", host::log::chain(&error));
        }
        Ok(())
    }

    fn write(&self, pid: Pid, file: &'static str, text: &str) -> Result<(), MapError> {
        let failed = |source| MapError { file, pid, source };
        let path = format!("{pid}/{file}");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let opened = openat(self.processes.as_fd(), path.as_str(), flags, Mode::empty());
        let written = File::from(opened.map_err(failed)?).write_all(text.as_bytes());
        written.map_err(|e| failed(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))
    }
}

/// A ruleset that denies everything that this kernel's Landlock can deny, except executing
/// `program`; `None` if there is no Landlock.
pub(crate) fn deny_all_but(program: BorrowedFd<'_>) -> Option<OwnedFd> {
    let abi = ABI::V6;
    // Executing a file also reads it.
    let exec = PathBeneath::new(program, AccessFs::Execute | AccessFs::ReadFile);
    // Landlock leaves out what this kernel does not support, down to nothing at all.
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(abi)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(exec));
    ruleset.ok().and_then(Option::<OwnedFd>::from)
}
