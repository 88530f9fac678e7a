// SPDX-License-Identifier: Apache-2.0
//! Code that a process would write itself, and run.

#![allow(unsafe_code)]

use nix::errno::Errno;

use crate::reach::{Attempt, called};

/// At least one page, on any architecture.
const BYTES: usize = 64 << 10;

/// The ways to executable memory of one's own making.
pub(crate) const ALL: &[Attempt] = &[
    ("map memory to write and execute", || {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        mapped(rights).map(drop)
    }),
    ("make written memory executable", || {
        let memory = mapped(libc::PROT_READ | libc::PROT_WRITE)?;
        let rights = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: nobody but this function knows the memory, and nobody runs it.
        called(unsafe { libc::mprotect(memory, BYTES, rights) }.into())
    }),
];

fn mapped(rights: libc::c_int) -> Result<*mut libc::c_void, Errno> {
    let (anywhere, flags) = (
        std::ptr::null_mut(),
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
    let memory = unsafe { libc::mmap(anywhere, BYTES, rights, flags, -1, 0) };
    match memory {
        libc::MAP_FAILED => Err(Errno::last()),
        memory => Ok(memory),
    }
}
