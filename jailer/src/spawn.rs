// SPDX-License-Identifier: Apache-2.0
//! Spawns the supervisor: a clone of the jailer in namespaces of its own, which never returns to
//! the jailer's code.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use handover::users::supervisors_user;
use host::pidfd;
use nix::errno::Errno;
use nix::unistd::{Pid, getegid, geteuid, pipe2};
use spec::UidRange;

/// All namespaces except time: no call of ours depends on clocks that could be moved.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// The status of a supervisor that panicked, or whose jailer was gone when it began.
const EXIT_ABORTED: libc::c_int = 101;

/// The supervisor could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BirthError {
    /// There is no pipe to hold the supervisor back.
    #[error("cannot make a pipe")]
    Pipe(#[source] Errno),
    /// There is no process.
    #[error("cannot make a process in namespaces of its own{}", remedy(*.0))]
    Clone(#[source] Errno),
    /// Its users could not be mapped.
    #[error("cannot map the supervisor's users: /proc/{0}/{1}")]
    Map(Pid, &'static str, #[source] io::Error),
    /// The supervisor died before the jailer released it.
    #[error("the supervisor is gone")]
    Gate(#[source] io::Error),
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            " (user namespaces are forbidden here: allow them, for instance with \
             sysctl kernel.unprivileged_userns_clone=1 or \
             kernel.apparmor_restrict_unprivileged_userns=0, or run as root outside of a container)"
        }
        Errno::ENOSPC | Errno::EUSERS => {
            " (there are too many namespaces: raise user.max_user_namespaces and the other \
             user.max_*_namespaces with sysctl)"
        }
        Errno::EINVAL => " (this kernel lacks one of the namespaces)",
        _ => "",
    }
}

/// A running supervisor.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// Readable once it and every process below it are dead.
    pub(crate) pidfd: OwnedFd,
    /// Its process id on the host.
    pub(crate) pid: Pid,
}

/// Clones this process into namespaces of its own, with the users of `range` if there is one, and
/// runs `main` in the clone, with the clone's process id on the host.
///
/// The clone starts in the control group `initial_cgroup`, if there is one.
pub(crate) fn spawn_supervisor(
    range: Option<UidRange>,
    initial_cgroup: Option<BorrowedFd<'_>>,
    main: impl FnOnce(Pid) -> Infallible,
) -> Result<Spawned, BirthError> {
    let (gate, opener) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(BirthError::Pipe)?;
    // SAFETY: the jailer is single-threaded.
    let cloned = unsafe { pidfd::clone(NAMESPACES, initial_cgroup) };
    let (pid, pidfd) = match cloned.map_err(BirthError::Clone)? {
        Some(spawned) => spawned,
        None => {
            // The clone must not hold the jailer's end, or it would not notice the jailer's death.
            drop(opener);
            let lived = catch_unwind(AssertUnwindSafe(|| await_gate(gate).map(main)));
            drop(lived);
            // SAFETY: _exit takes no pointers, runs nothing and never returns: everything the
            // jailer would clean up when it ends is in this copy, too.
            unsafe { libc::_exit(EXIT_ABORTED) }
        }
    };
    drop(gate);
    let let_go = write_maps(pid, range).and_then(|()| {
        let opened = File::from(opener).write_all(&pid.as_raw().to_ne_bytes());
        opened.map_err(BirthError::Gate)
    });
    let spawned = Spawned { pidfd, pid };
    match let_go {
        Ok(()) => Ok(spawned),
        Err(error) => {
            // The clone ends by itself: its pipe is closed.
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(error)
        }
    }
}

/// Waits until the jailer has mapped the users; the jailer then sends this process's id on the
/// host.
fn await_gate(gate: OwnedFd) -> io::Result<Pid> {
    let mut number = [0; 4];
    File::from(gate).read_exact(&mut number)?;
    Ok(Pid::from_raw(i32::from_ne_bytes(number)))
}

/// Maps the users and groups of the clone: those of the range, or ours alone.
fn write_maps(pid: Pid, range: Option<UidRange>) -> Result<(), BirthError> {
    let write = |file, text: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(|source| BirthError::Map(pid, file, source))
    };
    match range {
        Some(UidRange { first, count }) => {
            write("uid_map", format!("0 {first} {count}"))?;
            write("gid_map", format!("0 {first} {count}"))
        }
        None => {
            // A process without CAP_SETGID may map a group only after it has denied setgroups(2).
            write("setgroups", "deny".into())?;
            let user = supervisors_user(false);
            write("uid_map", format!("{user} {} 1", geteuid()))?;
            write("gid_map", format!("{user} {} 1", getegid()))
        }
    }
}
