// SPDX-License-Identifier: Apache-2.0
//! What every child does to itself first.

use std::ffi::CStr;

use nix::errno::Errno;

/// Takes a name for `ps` and the like: a program that was executed from a descriptor is called by
/// the descriptor's number on kernels before 6.14. At most 15 bytes are kept.
pub fn take_name(name: &CStr) {
    // Cannot fail with a valid string, and nothing depends on it.
    let _ = nix::sys::prctl::set_name(name);
}

/// PR_SET_MDWE and its flag PR_MDWE_REFUSE_EXEC_GAIN, since Linux 6.3.
const SET_MDWE: libc::c_int = 65;
const REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// What of its jail each process builds itself: nobody of the same user may look into it, which
/// executing a program undoes; and no memory that could be written becomes executable, which it hands
/// down.
///
/// # Errors
/// When the kernel has no such thing as the latter. It is done without, and the supervisor says so.
#[allow(unsafe_code)]
pub fn harden() -> nix::Result<()> {
    // Cannot fail.
    let _ = nix::sys::prctl::set_dumpable(false);
    // SAFETY: PR_SET_MDWE takes integers.
    let set = unsafe { libc::prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0_u64, 0_u64, 0_u64) };
    Errno::result(set).map(drop)
}
