// SPDX-License-Identifier: Apache-2.0
//! A child between its clone and its exec. It shares only code and a copy of memory with the
//! supervisor, and makes nothing but system calls: no allocation, no locks, no destructors.
//!
//! Its root needs no work: its mount namespace is a copy of the supervisor's, which holds one empty
//! read-only directory and nothing else.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::io::{Errno, read, write};
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, getrlimit, setrlimit, setsid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::thread::{remove_capability_from_bounding_set, set_capabilities};
use rustix::thread::{set_capabilities_secure_bits, set_no_new_privs};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Descriptors below this number are for children. Until a child places its descriptors, their
/// sources wait at this number and above, so that no step overwrites what a later step needs.
pub(super) const PARKING: RawFd = 64;
/// Namespaces that take the kernel longer to make than the rest of a process. The child makes them,
/// so that the supervisor does not wait for them.
const SLOW_NAMESPACES: libc::c_int = libc::CLONE_NEWNET | libc::CLONE_NEWIPC;
/// The highest signal number.
const SIGNALS: libc::c_int = 64;
/// The length of the kernel's sigset_t, in bytes.
const SIGSET_BYTES: usize = 8;
/// The status of a child that could not be executed.
pub(super) const NOT_EXECUTED: libc::c_int = 127;
/// More than any kernel has.
const CAPABILITIES: u32 = 64;
/// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS:
/// no change of the child's user gives it a capability.
const SECUREBITS: CapabilitiesSecureBits = CapabilitiesSecureBits::from_bits_retain(0b1110_1111);

/// The steps of a child that can fail, by their number in its report.
pub(super) const STEPS: [&str; 10] = [
    "wait to be let go",
    "make namespaces of its own",
    "leave the session",
    "limit itself",
    "give up its capabilities for good",
    "change its user",
    "enter the Landlock ruleset",
    "place its file descriptors",
    "reset its signals",
    "execute the program",
];

/// What the child needs between clone and exec: nothing in it must be freed, locked or grown.
pub(super) struct ChildPlan<'a> {
    pub(super) program: BorrowedFd<'a>,
    pub(super) report: BorrowedFd<'a>,
    /// The supervisor writes one byte here when the user is mapped, and closes it if that failed.
    pub(super) gate: BorrowedFd<'a>,
    /// The supervisor's end of the gate.
    pub(super) opener: RawFd,
    /// The ruleset that denies everything but executing the program, if the kernel has
    /// one.
    pub(super) landlock: Option<BorrowedFd<'a>>,
    /// The child's user id and group id.
    pub(super) user: u32,
    /// Whether the child has supplementary groups to drop and may do so.
    pub(super) has_groups: bool,
    pub(super) limits: [(Resource, Option<u64>); 4],
    /// The processors that it runs on, unless those of the supervisor.
    pub(super) affinity: Option<CpuSet>,
    pub(super) argv: [*const libc::c_char; 3],
    pub(super) envp: [*const libc::c_char; 1],
    /// For each number below PARKING, the descriptor that goes there; -1 for none.
    pub(super) sources: [RawFd; PARKING as usize],
}

type Step = fn(&ChildPlan<'_>) -> Result<(), Errno>;

/// Runs the child's steps. Never returns.
pub(super) fn enter(plan: &ChildPlan<'_>) -> ! {
    let steps: [Step; 10] = [
        wait_at_gate,
        make_namespaces,
        leave_session,
        limit,
        renounce,
        change_user,
        enter_landlock,
        place_fds,
        reset_signals,
        execute,
    ];
    for (number, step) in (0_i32..).zip(steps) {
        if let Err(errno) = step(plan) {
            fail(plan, number, errno);
        }
    }
    // The last step does not return if it succeeds.
    // SAFETY: _exit takes no pointers, runs no destructors and never returns.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

fn fail(plan: &ChildPlan<'_>, step: i32, errno: Errno) -> ! {
    let mut word = [0; 8];
    word[..4].copy_from_slice(&step.to_ne_bytes());
    word[4..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
    let _ = write(plan.report, &word);
    // SAFETY: _exit takes no pointers, runs no destructors and never returns.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

/// The result of a call of the C library.
fn checked(returned: libc::c_long) -> Result<(), Errno> {
    match returned {
        -1 => Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())),
        _ => Ok(()),
    }
}

/// Waits until the supervisor has mapped the user; fails if the supervisor could not.
fn wait_at_gate(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    // Our copy would keep the pipe open, and we would wait for ever if the supervisor gave up.
    // SAFETY: the owner of this number in the supervisor does not run in this process.
    unsafe { rustix::io::close(plan.opener) };
    match read(plan.gate, &mut [0_u8; 1])? {
        1 => Ok(()),
        _ => Err(Errno::PIPE),
    }
}

/// Makes the last namespaces while it has the right to, in the user namespace that it started in.
fn make_namespaces(_: &ChildPlan<'_>) -> Result<(), Errno> {
    // SAFETY: unshare takes no pointers.
    checked(unsafe { libc::unshare(SLOW_NAMESPACES) }.into())
}

/// Starts a session of its own, so that the user's Ctrl-C does not reach it, and leaves the
/// working directory.
fn leave_session(_: &ChildPlan<'_>) -> Result<(), Errno> {
    setsid()?;
    chdir(c"/")
}

fn limit(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    if let Some(cpus) = &plan.affinity {
        match sched_setaffinity(None, cpus) {
            // They have gone since the VM's start. As of a process that runs, the kernel decides.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    plan.limits.iter().try_for_each(|(resource, most)| {
        let Some(most) = most else {
            return Ok(());
        };
        // A hard limit that the host has lowered cannot be raised again.
        let hard = getrlimit(*resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(hard.min(*most));
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(*resource, limit)
    })
}

/// Closes every way back to a capability: exec, a change of user, raising.
fn renounce(_: &ChildPlan<'_>) -> Result<(), Errno> {
    set_capabilities_secure_bits(SECUREBITS)?;
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // This kernel has no capability of that number, and none of a higher one.
            Err(Errno::INVAL) if number > 0 => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sets its own user and group, no other groups, no capabilities, no new privileges.
fn change_user(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    if plan.has_groups {
        set_thread_groups(&[])?;
    }
    // The system calls themselves: the C library would tell other threads.
    let (user, group) = (Uid::from_raw(plan.user), Gid::from_raw(plan.user));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, none)?;
    set_no_new_privs(true)
}

fn enter_landlock(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    let Some(ruleset) = plan.landlock else {
        return Ok(());
    };
    let (call, ruleset) = (libc::SYS_landlock_restrict_self, ruleset.as_raw_fd());
    // SAFETY: landlock_restrict_self takes no pointers.
    checked(unsafe { libc::syscall(call, ruleset, 0) })
}

/// Places exactly the descriptors of the table below PARKING; the exec closes all above.
fn place_fds(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    for (number, source) in (0..PARKING).zip(&plan.sources) {
        if *source < 0 {
            // Most are not open, at which rustix would panic in a debug build.
            // SAFETY: the owner of this number in the parent does not run in this process.
            unsafe { libc::close(number) };
        } else {
            // SAFETY: dup2 takes no pointers; the source is at PARKING or above, so that no earlier
            // round has closed or overwritten it.
            checked(unsafe { libc::dup2(*source, number) }.into())?;
        }
    }
    let (first, last) = (PARKING.cast_unsigned(), libc::c_uint::MAX);
    let (call, flags) = (libc::SYS_close_range, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: close_range takes no pointers.
    checked(unsafe { libc::syscall(call, first, last, flags) })
}

/// Resets every disposition but one to its default, and blocks no signal. SIGXFSZ is ignored: all
/// processes share the log, and one of them may have filled it up to the RLIMIT_FSIZE of another. The
/// line of that other process is lost then, but the process is not killed.
fn reset_signals(_: &ChildPlan<'_>) -> Result<(), Errno> {
    // The kernel's sigaction and sigset_t, all zeroes: SIG_DFL, no flags, an empty mask. A raw
    // system call, because the C library refuses to touch the signals it uses itself, which may be
    // ignored, too.
    let zeroes = [0_u64; 8];
    let (new, old) = (zeroes.as_ptr(), std::ptr::null_mut::<u64>());
    for signal in 1..=SIGNALS {
        // The kernel refuses SIGKILL and SIGSTOP, which cannot be changed anyway.
        // SAFETY: the new action is longer than the kernel's structure on any architecture, the old
        // one is not asked for.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SIGSET_BYTES) };
    }
    let mut ignored = zeroes;
    ignored[0] = libc::SIG_IGN as u64;
    // SAFETY: as above; its first word is the handler.
    unsafe {
        let (signal, new) = (libc::SIGXFSZ, ignored.as_ptr());
        libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SIGSET_BYTES)
    };
    let how = libc::SIG_SETMASK;
    // SAFETY: the mask is longer than SIGSET_BYTES and empty, the old one is not asked for.
    checked(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, SIGSET_BYTES) })
}

fn execute(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    let empty = c"".as_ptr();
    let (argv, envp) = (plan.argv.as_ptr(), plan.envp.as_ptr());
    let (program, flags) = (plan.program.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a C string, argv and envp are arrays of C strings that end in null; all
    // of them live in `plan` or for ever.
    checked(unsafe { libc::syscall(libc::SYS_execveat, program, empty, argv, envp, flags) })
}
