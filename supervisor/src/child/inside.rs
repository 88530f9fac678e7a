// SPDX-License-Identifier: Apache-2.0
//! A child between its clone and its exec. It shares only code and a copy of memory with the
//! supervisor, and makes nothing but system calls: no allocation, no locks, no destructors.
//!
//! Its root needs no work: its mount namespace is a copy of the supervisor's, which holds one empty
//! read-only directory and nothing else.

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::resource::Resource;

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
const CAPABILITIES: libc::c_int = 64;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS:
/// no change of the child's user gives it a capability.
const SECUREBITS: libc::c_ulong = 0b1110_1111;

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
pub(super) struct ChildPlan {
    pub(super) program: RawFd,
    pub(super) report: RawFd,
    /// The supervisor writes one byte here when the user is mapped, and closes it if that failed.
    pub(super) gate: RawFd,
    /// The supervisor's end of the gate.
    pub(super) opener: RawFd,
    /// The ruleset that denies everything but executing the program, or -1.
    pub(super) landlock: RawFd,
    /// The child's user id and group id.
    pub(super) user: libc::uid_t,
    /// Whether the child has supplementary groups to drop and may do so.
    pub(super) has_groups: bool,
    pub(super) limits: [(Resource, u64); 3],
    pub(super) argv: [*const libc::c_char; 3],
    pub(super) envp: [*const libc::c_char; 1],
    /// For each number below PARKING, the descriptor that goes there; -1 for none.
    pub(super) sources: [RawFd; PARKING as usize],
}

/// Runs the child's steps. Never returns.
pub(super) fn enter(plan: &ChildPlan) -> ! {
    let steps: [fn(&ChildPlan) -> bool; 10] = [
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
        if !step(plan) {
            fail(plan, number);
        }
    }
    // The last step does not return if it succeeds.
    // SAFETY: _exit takes no pointers, runs no destructors and never returns.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

fn fail(plan: &ChildPlan, step: i32) -> ! {
    let errno = Errno::last_raw();
    let mut word = [0; 8];
    word[..4].copy_from_slice(&step.to_ne_bytes());
    word[4..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: the buffer is valid for its length; write only reads it.
    unsafe { libc::write(plan.report, word.as_ptr().cast(), word.len()) };
    // SAFETY: _exit takes no pointers, runs no destructors and never returns.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

/// Waits until the supervisor has mapped the user; false if it could not.
fn wait_at_gate(plan: &ChildPlan) -> bool {
    // Our copy would keep the pipe open, and we would wait for ever if the supervisor gave up.
    // SAFETY: the owner of this number in the supervisor does not run in this process.
    unsafe { libc::close(plan.opener) };
    let mut byte = 0_u8;
    // SAFETY: the buffer is one byte long.
    unsafe { libc::read(plan.gate, (&raw mut byte).cast(), 1) == 1 }
}

/// Makes the last namespaces while it has the right to, in the user namespace that it started in.
fn make_namespaces(_: &ChildPlan) -> bool {
    // SAFETY: unshare takes no pointers.
    unsafe { libc::unshare(SLOW_NAMESPACES) == 0 }
}

/// Starts a session of its own, so that the user's Ctrl-C does not reach it, and leaves the
/// working directory.
fn leave_session(_: &ChildPlan) -> bool {
    // SAFETY: setsid takes no pointers.
    let session = unsafe { libc::setsid() };
    // SAFETY: chdir reads a C string.
    let moved = unsafe { libc::chdir(c"/".as_ptr()) };
    session != -1 && moved != -1
}

fn limit(plan: &ChildPlan) -> bool {
    plan.limits.iter().all(|(resource, most)| {
        let resource = *resource as libc::c_long;
        let mut limit = libc::rlimit64 {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let (now, new) = (&raw mut limit, std::ptr::null::<libc::rlimit64>());
        // SAFETY: the old limit is written to a structure of its size, no new one is read.
        let read = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, now) };
        // A hard limit that the host has lowered cannot be raised again.
        limit.rlim_max = limit.rlim_max.min(*most);
        limit.rlim_cur = limit.rlim_max;
        let (new, old) = (&raw const limit, std::ptr::null_mut::<libc::rlimit64>());
        // SAFETY: the new limit is read from a structure of its size, the old one is not asked for.
        let set = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old) };
        read == 0 && set == 0
    })
}

/// Closes every way back to a capability: exec, a change of user, raising.
fn renounce(_: &ChildPlan) -> bool {
    // SAFETY: PR_SET_SECUREBITS takes an integer.
    if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECUREBITS) } != 0 {
        return false;
    }
    for capability in 0..CAPABILITIES {
        // SAFETY: PR_CAPBSET_DROP takes an integer.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) } == 0;
        // EINVAL: this kernel has no capability of that number, and none of a higher one.
        if !dropped {
            return Errno::last() == Errno::EINVAL && capability > 0;
        }
    }
    true
}

/// Sets its own user and group, no other groups, no capabilities, no new privileges.
fn change_user(plan: &ChildPlan) -> bool {
    let (user, none) = (plan.user, std::ptr::null::<libc::gid_t>());
    if plan.has_groups {
        // SAFETY: an empty list is not read.
        if unsafe { libc::syscall(libc::SYS_setgroups, 0, none) } != 0 {
            return false;
        }
    }
    // SAFETY: setresgid takes no pointers. The system call itself: the C library would tell other
    // threads.
    let group = unsafe { libc::syscall(libc::SYS_setresgid, user, user, user) };
    // SAFETY: setresuid takes no pointers.
    let user = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let sets = [0_u32; 6];
    // SAFETY: both are laid out as capset(2) says for version 3: version and process, and two times
    // three sets.
    let caps = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers.
    let bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    group == 0 && user == 0 && caps == 0 && bound == 0
}

fn enter_landlock(plan: &ChildPlan) -> bool {
    let ruleset = plan.landlock;
    // SAFETY: landlock_restrict_self takes no pointers.
    ruleset < 0 || unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) } == 0
}

/// Places exactly the descriptors of the table below PARKING; the exec closes all above.
fn place_fds(plan: &ChildPlan) -> bool {
    for (number, source) in (0..PARKING).zip(&plan.sources) {
        if *source < 0 {
            // SAFETY: the owner of this number in the parent does not run in this process.
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
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        ) == 0
    }
}

/// Resets every disposition but one to its default, and blocks no signal. SIGXFSZ is ignored: all
/// processes share the log, and one of them may have filled it up to the RLIMIT_FSIZE of another. The
/// line of that other process is lost then, but the process is not killed.
fn reset_signals(_: &ChildPlan) -> bool {
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
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, SIGSET_BYTES) == 0 }
}

fn execute(plan: &ChildPlan) -> bool {
    let empty = c"".as_ptr();
    let (argv, envp) = (plan.argv.as_ptr(), plan.envp.as_ptr());
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is a C string, argv and envp are arrays of C strings that end in null; all
    // of them live in `plan` or for ever.
    unsafe { libc::syscall(libc::SYS_execveat, plan.program, empty, argv, envp, flags) };
    false
}
