// SPDX-License-Identifier: Apache-2.0
//! `backend-that-waits`: a backend whose I/O waits in the kernel for somebody who never answers, as on
//! storage that is gone. Of a disk, only with the engine of threads, whose worker goes on.
#![allow(unsafe_code)] // nobody wraps filters that ask a listener

use std::process::ExitCode;

use anyhow::Result;
use seccompiler::SeccompAction;

fn main() -> ExitCode {
    match wait_for_nobody() {
        Ok(()) => e2e::faulty::serve(),
        Err(error) => {
            eprintln!("backend-that-waits: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Has each call for I/O wait for the listener of a filter, which we hold.
fn wait_for_nobody() -> Result<()> {
    // There is no such action; it takes the place of one that asks somebody else.
    let mut program = e2e::faulty::io_filter(SeccompAction::Trace(0))?;
    for instruction in &mut program {
        if instruction.k == libc::SECCOMP_RET_TRACE {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len())?,
        filter: program.as_mut_ptr().cast(),
    };
    // SAFETY: the filter points to as many instructions as it says, of the kernel's layout, which
    // outlive the call; the jail has set no_new_privs.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    // It stays open for as long as the process lives.
    nix::errno::Errno::result(listener)?;
    Ok(())
}
