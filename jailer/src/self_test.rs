// SPDX-License-Identifier: Apache-2.0
//! A supervisor's jail with no VM in it: finds out whether this host can build it, and lets a test
//! try to break out of it.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use spec::{SpecError, Vm, VmSpec};

use crate::run::{ROOTLESS, claim_users};
use crate::{spawn, uids};

/// How a supervisor builds its jail around its own process, told whether the VM has users of its
/// own; an `Err` says why it cannot.
pub type Build = fn(bool) -> Result<(), String>;
/// The same, and below it the jail of a child, in which a program prints its version. The last
/// descriptor is the program's standard input and output.
pub type SelfTest = fn(bool, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<(), String>;

/// Whether the supervisor's jail and a child's in it can be built, and if not, why.
pub(crate) fn jails(build: SelfTest) -> Result<String, String> {
    let open = |path: &str, write: bool| {
        let mut options = std::fs::OpenOptions::new();
        let opened = options.read(true).write(write).open(path);
        opened.map_err(|e| format!("{path}: {e}"))
    };
    let (program, null) = (open("/proc/self/exe", false)?, open("/dev/null", true)?);
    let (mut told, tell) = std::io::pipe().map_err(|e| e.to_string())?;
    let spawned = spawn_supervisor(move |has_range| {
        let built = build(has_range, program.as_fd(), null.as_fd());
        if let Err(error) = built {
            let _ = (&tell).write_all(error.as_bytes());
        }
        std::process::exit(0)
    })?;
    let mut reason = String::new();
    let heard = told.read_to_string(&mut reason);
    let _ = waitpid(spawned, None);
    match heard {
        Ok(0) => Ok("an empty root, no capabilities".into()),
        Ok(_) => Err(reason),
        Err(e) => Err(e.to_string()),
    }
}

/// Runs `act` instead of a supervisor, in the jail that `build` makes; descriptor 0 is also 1 and
/// 2. Returns when it has ended.
pub(crate) fn stand_in(
    build: Build,
    act: impl FnOnce() -> Infallible,
) -> Result<WaitStatus, String> {
    let spawned = spawn_supervisor(move |has_range| {
        match build(has_range) {
            Ok(()) => drop(act()),
            Err(error) => handover::outcome::say(&error),
        }
        std::process::exit(1)
    })?;
    waitpid(spawned, None).map_err(|e| e.to_string())
}

fn spawn_supervisor(main: impl FnOnce(bool) -> Infallible) -> Result<Pid, String> {
    let claim = range().ok();
    let range = claim.as_ref().map(|claim| claim.range);
    let spawned = spawn::spawn_supervisor(range, None, move |_| main(range.is_some()));
    spawned
        .map(|spawned| spawned.pid)
        .map_err(|e| host::log::chain(&e))
}

/// Whether a VM can have users of its own.
pub(crate) fn user_range() -> Result<String, String> {
    match geteuid().is_root() {
        true => range()
            .map(|claim| format!("such as {}", claim.range))
            .map_err(|e| e.to_string()),
        false => Err(format!("{ROOTLESS}: start VMs as root to have them")),
    }
}

fn range() -> Result<uids::Claim, SpecError> {
    let vm = Vm::try_from(VmSpec::new("none"))?;
    claim_users(&vm)?.ok_or_else(|| SpecError::new("uid-range", "", ROOTLESS))
}
