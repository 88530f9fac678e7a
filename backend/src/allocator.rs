// SPDX-License-Identifier: Apache-2.0
//! The C library's allocator, told to take its memory in one way only.

/// One heap for all threads, grown with brk(2): each thread with a heap of its own costs memory, and
/// system calls (mprotect, mremap) that the filter would have to allow. Called before any thread.
#[allow(unsafe_code)]
pub(crate) fn keep_simple() {
    // SAFETY: no pointers; the process has one thread yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
}
