// SPDX-License-Identifier: Apache-2.0
//! Starts a child in a jail of its own.
//!
//! The supervisor prepares everything before the clone. The child starts in namespaces of its own
//! and waits at a pipe, the gate, until the supervisor has mapped its user. Then it builds the rest
//! of its jail around itself and executes its program: [`inside`].

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use host::pidfd;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl::set_dumpable;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, pipe2, write};
use rustix::process::Resource;

use super::jails::{Jails, MapError, deny_all_but};
use crate::profile::Profile;

mod inside;

use inside::{ChildPlan, PARKING, STEPS};

/// With those that a child makes for itself, all namespaces except time: no call of a child's
/// depends on clocks that could be moved.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What one child is to execute, and with what. Its owner holds copies of the child's descriptors:
/// it is dropped once the child has started.
#[derive(Debug)]
pub(crate) struct ChildSpec {
    /// Its `argv[0]`.
    pub(crate) name: &'static CStr,
    /// Its only argument, if it has one.
    pub(crate) arg: Option<&'static CStr>,
    /// Its program.
    pub(crate) program: OwnedFd,
    /// Its own descriptors, and the numbers below 64 at which it gets them.
    pub(crate) fds: Vec<(RawFd, OwnedFd)>,
    /// The part of its jail that depends on the kind of process.
    pub(crate) profile: Profile,
}

/// A child that was started.
#[derive(Debug)]
pub(crate) struct Child {
    /// Refers to the child even after its process id was reused.
    pub(crate) pidfd: OwnedFd,
    /// The child's report of what failed before its exec, if anything; non-blocking.
    pub(crate) report: OwnedFd,
}

/// A child could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate a file descriptor")]
    Park(#[source] Errno),
    /// There is no pipe to hold the child back, or none for its report.
    #[error("cannot make a pipe")]
    Pipe(#[source] Errno),
    /// There is no new process.
    #[error("cannot make a process in namespaces of its own")]
    Clone(#[source] Errno),
    /// The child's user could not be mapped.
    #[error("cannot write")]
    Map(#[from] MapError),
    /// The child died before the supervisor released it.
    #[error("cannot let it go")]
    Gate(#[source] Errno),
}

/// Starts a child, with its own descriptors and those that every child gets.
pub(crate) fn start(
    spec: &ChildSpec,
    common: &[(RawFd, BorrowedFd<'_>)],
    jails: &Jails,
) -> Result<Child, StartError> {
    let program = park(spec.program.as_fd())?;
    let own = spec.fds.iter().map(|(number, fd)| (*number, fd.as_fd()));
    let mut parked = Vec::with_capacity(spec.fds.len() + common.len());
    let mut sources = [-1; PARKING as usize];
    for (number, fd) in own.chain(common.iter().copied()) {
        let fd = park(fd)?;
        let slot = usize::try_from(number)
            .ok()
            .and_then(|n| sources.get_mut(n));
        *slot.ok_or(StartError::Park(Errno::EBADF))? = fd.as_raw_fd();
        parked.push(fd);
    }
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (report, write_end) = pipe2(flags).map_err(StartError::Pipe)?;
    let (gate, opener) = pipe2(OFlag::O_CLOEXEC).map_err(StartError::Pipe)?;
    let (write_end, gate) = (park(write_end.as_fd())?, park(gate.as_fd())?);
    let landlock = deny_all_but(spec.program.as_fd());
    let landlock = landlock.map(|fd| park(fd.as_fd())).transpose()?;
    let arg = spec.arg.map_or(std::ptr::null(), CStr::as_ptr);
    let plan = ChildPlan {
        program: program.as_fd(),
        report: write_end.as_fd(),
        gate: gate.as_fd(),
        opener: opener.as_raw_fd(),
        landlock: landlock.as_ref().map(AsFd::as_fd),
        user: spec.profile.user.into(),
        affinity: spec.profile.affinity.as_ref().map(host::affinity::mask),
        has_groups: jails.has_range(),
        limits: [
            (Resource::Nofile, Some(spec.profile.descriptors_max)),
            (Resource::Fsize, Some(spec.profile.file_bytes_max)),
            (Resource::Core, Some(0)),
            (Resource::Nproc, spec.profile.threads_max),
        ],
        argv: [spec.name.as_ptr(), arg, std::ptr::null()],
        envp: [std::ptr::null()],
        sources,
    };
    // Writing a child's uid_map requires it to be dumpable; a clone inherits our dumpable flag.
    let looked_at = set_dumpable(true);
    let started = looked_at.map_err(StartError::Clone).and_then(|()| {
        let (pid, pidfd) = clone_into(&plan).map_err(StartError::Clone)?;
        Ok((pidfd, jails.map(pid, &spec.profile)))
    });
    // This cannot fail: the same call with `true` succeeded just now.
    let _ = set_dumpable(false);
    let (pidfd, mapped) = started?;
    // A child that is not released reads the end of the pipe and exits; only we can reap it.
    let opened = mapped
        .map_err(StartError::from)
        .and_then(|()| write(&opener, &[1]).map(drop).map_err(StartError::Gate));
    drop(opener);
    match opened {
        Ok(()) => Ok(Child { pidfd, report }),
        Err(error) => {
            let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
            Err(error)
        }
    }
}

/// The step that failed before a child's exec, as the child reported it.
pub(crate) fn failure(report: &OwnedFd) -> Option<(&'static str, Errno)> {
    let mut word = [0; 8];
    let Ok(8) = nix::unistd::read(report, &mut word) else {
        return None;
    };
    let [step, errno] =
        [&word[..4], &word[4..]].map(|half| half.try_into().map_or(0, i32::from_ne_bytes));
    let step = usize::try_from(step).ok().and_then(|step| STEPS.get(step));
    Some((step.copied().unwrap_or("start"), Errno::from_raw(errno)))
}

fn park(fd: BorrowedFd<'_>) -> Result<OwnedFd, StartError> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(PARKING)).map_err(StartError::Park)?;
    // SAFETY: fcntl has just made this descriptor, and no other code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn clone_into(plan: &ChildPlan) -> Result<(Pid, OwnedFd), Errno> {
    // SAFETY: the child calls only `enter`, which makes system calls only and does not return.
    match unsafe { pidfd::clone(NAMESPACES, None) }? {
        Some(child) => Ok(child),
        None => inside::enter(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::inside::NOT_EXECUTED;
    use super::*;
    use nix::sys::wait::WaitStatus;
    use std::fs::File;
    use std::io::Read;

    fn open(path: &str) -> File {
        File::open(path).unwrap()
    }

    const PROFILE: Profile = Profile {
        user: 7,
        descriptors_max: 100,
        file_bytes_max: 1 << 20,
        threads_max: None,
        oom_score_adj: 0,
        affinity: None,
    };

    fn jails() -> Jails {
        Jails::new(open("/proc").into(), false)
    }

    fn reaped(child: &Child) -> WaitStatus {
        waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap()
    }

    #[test]
    fn program_that_cannot_be_executed_is_reported_with_the_step() {
        let (program, null) = (open("/etc/passwd"), open("/dev/null"));
        let spec = ChildSpec {
            name: c"x",
            arg: None,
            program: program.into(),
            fds: vec![(0, null.into())],
            profile: PROFILE,
        };
        let child = start(&spec, &[], &jails()).unwrap();
        assert!(matches!(
            reaped(&child),
            WaitStatus::Exited(_, NOT_EXECUTED)
        ));
        let told = failure(&child.report);
        assert_eq!(told, Some(("execute the program", Errno::EACCES)));
    }

    #[test]
    fn child_gets_its_descriptors_even_if_they_collide() {
        // This program, which is static and prints to descriptor 1: a pipe, whose number is lower.
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let null = open("/dev/null");
        let (read_end, write_end) = nix::unistd::pipe().unwrap();
        let spec = ChildSpec {
            name: c"tests",
            arg: Some(c"--help"),
            program: program.into(),
            fds: vec![(1, write_end)],
            profile: PROFILE,
        };
        let common = [(0, null.as_fd()), (2, null.as_fd())];
        let child = start(&spec, &common, &jails()).unwrap();
        drop(spec);
        let mut said = String::new();
        File::from(read_end).read_to_string(&mut said).unwrap();
        assert!(said.contains("Usage:"), "{said}");
        assert!(matches!(reaped(&child), WaitStatus::Exited(_, 0)));
        assert_eq!(failure(&child.report), None);
    }
}
