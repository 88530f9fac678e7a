// SPDX-License-Identifier: Apache-2.0
//! What is left of a start in the memory of a process that then only waits: the pages of its program
//! that have run once. Every process of a VM lets go of them when the start is over.

#![allow(unsafe_code)]

unsafe extern "C" {
    /// The first byte of the program in memory, and the first one behind its code: the linker says
    /// where. Between them are constants and code, nothing that is ever written.
    static __ehdr_start: u8;
    static etext: u8;
}

/// Gives back the pages of this program's constants and code. What is needed again is found in the
/// page cache, a few pages at a time.
pub fn let_go() {
    let begin = &raw const __ehdr_start;
    let len_bytes = (&raw const etext).addr() - begin.addr();
    // SAFETY: all pages from the one to the other are private mappings of the program's file that
    // cannot be written, because what can be starts on a page of its own behind the code. Nor does the
    // loader relocate them. So what is dropped is read from the file again, unchanged, when touched.
    unsafe { libc::madvise(begin.cast_mut().cast(), len_bytes, libc::MADV_DONTNEED) };
}
