// SPDX-License-Identifier: Apache-2.0
//! Starting a child: the only place where two processes run the same code, and the only unsafe code
//! of starting one.
//!
//! Everything is prepared before the clone. Between clone and exec the child runs [`become_child`],
//! which calls nothing but system calls: no allocation, no locks, no destructors.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{getpid, pipe2};

/// Descriptors below this number are for children; while a child is put together, what it will get
/// waits above, so that no step can overwrite what a later step needs.
const PARKING: RawFd = 64;
/// The highest signal number.
const SIGNALS: libc::c_int = 64;
/// The length of the kernel's sigset_t, in bytes.
const SIGSET_BYTES: usize = 8;
/// The status of a child that could not be executed.
const NOT_EXECUTED: libc::c_int = 127;

/// What a child is to become.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Its argv[0].
    pub(crate) name: &'static CStr,
    /// Its only argument, if it has one.
    pub(crate) arg: Option<&'static CStr>,
    /// Its program.
    pub(crate) program: BorrowedFd<'a>,
    /// Its descriptors, and at which numbers below 64 it gets them.
    pub(crate) fds: Vec<(RawFd, BorrowedFd<'a>)>,
}

/// A child that was started.
#[derive(Debug)]
pub(crate) struct Child {
    /// It, whatever becomes of the id.
    pub(crate) pidfd: OwnedFd,
    /// What went wrong before it was executed, if anything; non-blocking.
    pub(crate) report: OwnedFd,
}

/// A child could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Its descriptors could not be laid out.
    #[error("cannot duplicate a file descriptor")]
    Park(#[source] Errno),
    /// There is no way to hear of its failure.
    #[error("cannot make a pipe")]
    Report(#[source] Errno),
    /// There is no new process.
    #[error("cannot make a process")]
    Clone(#[source] Errno),
}

/// The steps of a child that can fail, as they are told in its report.
const STEPS: [&str; 4] = [
    "leave the session",
    "place its file descriptors",
    "reset its signals",
    "execute the program",
];

/// What the child needs, and nothing that has to be freed, locked or grown.
struct Ready {
    parent: libc::pid_t,
    program: RawFd,
    report: RawFd,
    argv: [*const libc::c_char; 3],
    envp: [*const libc::c_char; 1],
    /// For each number below PARKING, where its descriptor waits; -1 for none.
    sources: [RawFd; PARKING as usize],
}

/// Starts a child.
pub(crate) fn start(plan: &Plan<'_>) -> Result<Child, StartError> {
    let program = park(plan.program)?;
    let mut parked = Vec::with_capacity(plan.fds.len());
    let mut sources = [-1; PARKING as usize];
    for (number, fd) in &plan.fds {
        let fd = park(*fd)?;
        let slot = usize::try_from(*number)
            .ok()
            .and_then(|n| sources.get_mut(n));
        *slot.ok_or(StartError::Park(Errno::EBADF))? = fd.as_raw_fd();
        parked.push(fd);
    }
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (report, write_end) = pipe2(flags).map_err(StartError::Report)?;
    let write_end = park_as(&write_end)?;
    let arg = plan.arg.map_or(std::ptr::null(), CStr::as_ptr);
    let ready = Ready {
        parent: getpid().as_raw(),
        program: program.as_raw_fd(),
        report: write_end.as_raw_fd(),
        argv: [plan.name.as_ptr(), arg, std::ptr::null()],
        envp: [std::ptr::null()],
        sources,
    };
    let pidfd = clone_into(&ready).map_err(StartError::Clone)?;
    Ok(Child { pidfd, report })
}

/// What kept a child from being executed, as it reported it.
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
    park_as(fd)
}

fn park_as(fd: impl std::os::fd::AsFd) -> Result<OwnedFd, StartError> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(PARKING)).map_err(StartError::Park)?;
    // SAFETY: fcntl has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn clone_into(ready: &Ready) -> Result<OwnedFd, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD.cast_unsigned().into();
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    let args_ptr = &raw mut args;
    // SAFETY: args is a clone_args of the size given; pidfd outlives the call. Without CLONE_VM the
    // child runs on its own copy of this stack. The process is single-threaded, and the child calls
    // only `become_child`, which does not return.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args_ptr, size_of_val(&args)) };
    match pid {
        0 => become_child(ready),
        -1 => Err(Errno::last()),
        _ => {
            // SAFETY: clone3 succeeded, so with CLONE_PIDFD it stored a new descriptor there.
            Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
        }
    }
}

/// The child, from its birth to its exec. Only async-signal-safe calls.
fn become_child(ready: &Ready) -> ! {
    let fail = |step: i32| -> ! {
        let errno = Errno::last_raw();
        let mut word = [0; 8];
        word[..4].copy_from_slice(&step.to_ne_bytes());
        word[4..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: the buffer is valid for its length; write only reads it.
        unsafe { libc::write(ready.report, word.as_ptr().cast(), word.len()) };
        // SAFETY: _exit takes no pointers, runs no destructors and never returns.
        unsafe { libc::_exit(NOT_EXECUTED) }
    };
    if !leave_session(ready.parent) {
        fail(0);
    }
    if !place_fds(&ready.sources) {
        fail(1);
    }
    if !reset_signals() {
        fail(2);
    }
    let empty = c"".as_ptr();
    let (argv, envp) = (ready.argv.as_ptr(), ready.envp.as_ptr());
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is a C string, argv and envp are arrays of C strings that end in null; all
    // of them live in `ready` or for ever.
    unsafe { libc::syscall(libc::SYS_execveat, ready.program, empty, argv, envp, flags) };
    fail(3)
}

/// A session of its own, so that the user's Ctrl-C is not for it; and death when the jailer dies.
fn leave_session(parent: libc::pid_t) -> bool {
    // SAFETY: setsid takes no pointers.
    let session = unsafe { libc::setsid() };
    // SAFETY: PR_SET_PDEATHSIG takes an integer.
    let bound = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: chdir reads a C string.
    let moved = unsafe { libc::chdir(c"/".as_ptr()) };
    // SAFETY: getppid takes no pointers. A parent that died before prctl would never be noticed.
    let orphan = unsafe { libc::getppid() } != parent;
    session != -1 && bound != -1 && moved != -1 && !orphan
}

/// Exactly the descriptors of the table below PARKING, and none above after the exec.
fn place_fds(sources: &[RawFd; PARKING as usize]) -> bool {
    for (number, source) in (0..PARKING).zip(sources) {
        if *source < 0 {
            // SAFETY: whoever owned this number in the parent does not run in this process.
            unsafe { libc::close(number) };
        } else {
            // SAFETY: dup2 takes no pointers; the source is at PARKING or above, so that no earlier
            // round has closed or overwritten it.
            if unsafe { libc::dup2(*source, number) } == -1 {
                return false;
            }
        }
    }
    let first = PARKING.cast_unsigned();
    // SAFETY: close_range takes no pointers.
    unsafe {
        libc::close_range(
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
        ) == 0
    }
}

/// Every disposition at its default, nothing blocked.
fn reset_signals() -> bool {
    // The kernel's sigaction and sigset_t of zeroes: SIG_DFL, no flags, an empty mask. The C library
    // would not touch the signals it uses itself, which may be ignored as any other.
    let zeroes = [0_u64; 8];
    let (new, old) = (zeroes.as_ptr(), std::ptr::null_mut::<u64>());
    for signal in 1..=SIGNALS {
        // SIGKILL and SIGSTOP are refused: they cannot be changed anyway.
        // SAFETY: the new action is longer than the kernel's structure on any architecture, the old
        // one is not asked for.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SIGSET_BYTES) };
    }
    let how = libc::SIG_SETMASK;
    // SAFETY: the mask is longer than SIGSET_BYTES and empty, the old one is not asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, SIGSET_BYTES) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

    fn open(path: &str) -> File {
        File::open(path).unwrap()
    }

    fn reaped(child: &Child) -> WaitStatus {
        waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap()
    }

    #[test]
    fn program_that_cannot_be_executed_is_reported_with_the_step() {
        let (program, null) = (open("/etc/passwd"), open("/dev/null"));
        let child = start(&Plan {
            name: c"x",
            arg: None,
            program: program.as_fd(),
            fds: vec![(0, null.as_fd())],
        })
        .unwrap();
        assert!(matches!(
            reaped(&child),
            WaitStatus::Exited(_, NOT_EXECUTED)
        ));
        let told = failure(&child.report);
        assert_eq!(told, Some(("execute the program", Errno::EACCES)));
    }

    #[test]
    fn child_gets_its_descriptors_even_if_they_collide_and_no_environment() {
        // env prints its environment to descriptor 1, which here is the pipe.
        let (program, null) = (open("/usr/bin/env"), open("/dev/null"));
        let (read_end, write_end) = nix::unistd::pipe().unwrap();
        let child = start(&Plan {
            name: c"env",
            arg: None,
            program: program.as_fd(),
            fds: vec![(0, null.as_fd()), (1, write_end.as_fd()), (2, null.as_fd())],
        })
        .unwrap();
        drop(write_end);
        assert!(matches!(reaped(&child), WaitStatus::Exited(_, 0)));
        assert_eq!(failure(&child.report), None);
        let mut environment = String::new();
        File::from(read_end)
            .read_to_string(&mut environment)
            .unwrap();
        assert_eq!(environment, "");
    }
}
