// SPDX-License-Identifier: Apache-2.0
//! `backend-that-waits`: a disk backend whose requests wait in the kernel for somebody who never
//! answers, as on storage that is gone. Only with the engine of threads, whose worker goes on.
#![allow(unsafe_code)] // nobody wraps filters that ask a listener

use std::io;
use std::process::ExitCode;

use blk_backend::program::BlkBackend;
use tests::faulty::ENGINES;

/// BPF: load the word at k, return k, skip jt instructions if the word is k.
const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP_IF_EQUAL: u16 = 0x15;

fn main() -> ExitCode {
    match wait_for_nobody() {
        Ok(()) => backend::program::main::<BlkBackend>(),
        Err(error) => {
            eprintln!("backend-that-waits: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Has each call for I/O wait for the listener of a filter, which we hold.
fn wait_for_nobody() -> io::Result<()> {
    let number = |call: libc::c_long| u32::try_from(call).map_err(io::Error::other);
    let instruction = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut program = Vec::new();
    // The number of the call is the first word.
    program.push(instruction(LOAD, 0, 0));
    for (left, call) in (1..=6).rev().zip(ENGINES) {
        program.push(instruction(JUMP_IF_EQUAL, left, number(call)?));
    }
    program.push(instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    program.push(instruction(RETURN, 0, libc::SECCOMP_RET_USER_NOTIF));
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter points to as many instructions as it says, which outlive the call; the
    // jail has set no_new_privs.
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
