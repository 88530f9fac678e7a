// SPDX-License-Identifier: Apache-2.0
//! The code of the hammer, which each architecture's `hammer.rs` has in assembler.
#![allow(unsafe_code)] // symbols of assembled code

unsafe extern "C" {
    safe static no_os_hammer_start: u8;
    safe static no_os_hammer_end: u8;
}

/// The assembled code.
pub(super) fn assembled() -> &'static [u8] {
    let start = &raw const no_os_hammer_start;
    let len = (&raw const no_os_hammer_end).addr() - start.addr();
    // SAFETY: both symbols are in one section of constant data, the second behind the first, and all
    // between them is what `hammer.rs` assembles.
    unsafe { std::slice::from_raw_parts(start, len) }
}
