// SPDX-License-Identifier: Apache-2.0
//! `--seccomp log`: a handler for SIGSYS that names the system call the filter stopped.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::health::{Crash, HealthPage};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Where to store the number of the forbidden call; set before the handler is installed.
static CRASH: OnceLock<&'static AtomicU32> = OnceLock::new();

/// Installs the handler. It stores the call's number in `health` and logs the call's name.
#[allow(unsafe_code)]
pub fn report_violations(health: &'static HealthPage) -> nix::Result<()> {
    CRASH.get_or_init(|| &health.crash);
    let action = SigAction::new(
        SigHandler::SigAction(handle),
        SaFlags::SA_SIGINFO,
        SigSet::empty(),
    );
    // SAFETY: `handle` only loads and stores atomics, formats into a buffer on its own stack, and
    // calls write and _exit: all of it async-signal-safe.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

/// The name of a system call on this architecture.
pub fn call_name(number: u32) -> &'static str {
    syscalls::Sysno::new(number as usize).map_or("unknown", |call| call.name())
}

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let number = syscall_of(info);
    if let Some(crash) = CRASH.get() {
        crash.store(Crash::Syscall(number).to_u32(), Ordering::Relaxed);
    }
    let name = call_name(number);
    let mut line = [0; 96];
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "seccomp: the filter of this thread lacks {name} ({number})"
    );
    let unused = rest.len();
    let used = &line[..line.len() - unused];
    end(used);
}

#[allow(unsafe_code)]
fn syscall_of(info: *mut libc::siginfo_t) -> u32 {
    // The kernel's layout for SIGSYS, which libc does not have: three ints, then _call_addr and
    // _syscall (signal(7); include/uapi/asm-generic/siginfo.h).
    #[repr(C)]
    struct Sys {
        head: [libc::c_int; 3],
        call_addr: usize,
        syscall: libc::c_int,
    }
    const _: () = assert!(std::mem::offset_of!(Sys, syscall) == 24);
    // SAFETY: SA_SIGINFO was asked for, so the kernel passes a siginfo_t, which is larger than Sys
    // and for SIGSYS has its layout.
    let number = unsafe { (*info.cast::<Sys>()).syscall };
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[allow(unsafe_code)]
fn end(line: &[u8]) -> ! {
    // SAFETY: `line` is valid for its length; write(2) only reads it.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
    // SAFETY: _exit takes no pointers and never returns.
    unsafe { libc::_exit(159) }
}
