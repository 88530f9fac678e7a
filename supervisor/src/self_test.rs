// SPDX-License-Identifier: Apache-2.0
//! Whether this host can give the jails of a supervisor and of a child, for `doctor` and for tests.

use std::os::fd::{AsFd, BorrowedFd};

use ipc::seccomp::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::child::{ChildSpec, failure, start};
use super::jails::Jails;
use super::profile::{LOG_BYTES_MAX, Profile};
use super::{confine, seccomp};

/// Builds the supervisor's jail around this process, and below it the jail of a child, in which
/// `program` prints its version.
pub fn self_test(
    has_range: bool,
    program: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
) -> Result<(), String> {
    let confined = confine::confine(has_range);
    let processes = confined.map_err(|e| host::log::chain(&e))?;
    run_child(program, null, &Jails::new(processes, has_range))
}

/// Builds the supervisor's jail with only the standard descriptors, and installs its filter.
pub fn self_test_with_filter(has_range: bool) -> Result<(), String> {
    confine::keep_only(&[], 0, 2).map_err(|e| host::log::chain(&e))?;
    confine::confine(has_range).map_err(|e| host::log::chain(&e))?;
    let filtered = seccomp::SUPERVISOR.install(Mode::Kill);
    filtered.map_err(|e| host::log::chain(&e))
}

/// Runs a child to its end; an error says why that is not possible here.
fn run_child(program: BorrowedFd<'_>, null: BorrowedFd<'_>, jails: &Jails) -> Result<(), String> {
    let program = program.try_clone_to_owned();
    let spec = ChildSpec {
        name: c"jailer",
        arg: Some(c"--version"),
        program: program.map_err(|e| format!("a child's: {e}"))?,
        fds: Vec::new(),
        profile: Profile {
            user: 1,
            descriptors_max: 64,
            file_bytes_max: LOG_BYTES_MAX,
            threads_max: None,
            oom_score_adj: 0,
            affinity: None,
        },
    };
    let common = [0, 1, 2].map(|number| (number, null));
    let child =
        start(&spec, &common, jails).map_err(|e| format!("a child's: {}", host::log::chain(&e)))?;
    let ended = waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED);
    match (failure(&child.report), ended) {
        (None, Ok(WaitStatus::Exited(_, 0))) => Ok(()),
        (Some((step, errno)), _) => Err(format!("a child's: cannot {step}: {}", errno.desc())),
        (None, ended) => Err(format!("a child's: its program ended as {ended:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn self_test_tells_what_a_child_cannot_do() {
        let null = File::open("/dev/null").unwrap();
        let jails = || Jails::new(File::open("/proc").unwrap().into(), false);
        let told = run_child(
            File::open("/etc/passwd").unwrap().as_fd(),
            null.as_fd(),
            &jails(),
        );
        let told = told.unwrap_err();
        assert!(told.contains("execute the program: Permission"), "{told}");
        // This program knows no such flag.
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let told = run_child(program.as_fd(), null.as_fd(), &jails()).unwrap_err();
        assert!(told.contains("its program ended as Ok(Exited("), "{told}");
    }
}
