// SPDX-License-Identifier: Apache-2.0
//! What every child process does to itself first.

use std::ffi::CStr;

use nix::errno::Errno;

/// Sets the process name that `ps` shows: on kernels before 6.14, a program executed from a
/// descriptor is called by the descriptor's number. The kernel keeps at most 15 bytes.
pub fn take_name(name: &CStr) {
    // Cannot fail with a valid string, and nothing depends on it.
    let _ = nix::sys::prctl::set_name(name);
}

/// PR_SET_MDWE and its flag PR_MDWE_REFUSE_EXEC_GAIN, since Linux 6.3.
const SET_MDWE: libc::c_int = 65;
const REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// The part of its jail that each process sets up itself. It makes itself undumpable, so that other
/// processes of its user cannot trace it (execve resets this), and denies itself making written
/// memory executable (its children inherit this).
///
/// # Errors
/// If the kernel has no PR_SET_MDWE. The process goes on without it, and the supervisor logs that.
#[allow(unsafe_code)]
pub fn harden() -> nix::Result<()> {
    // Cannot fail.
    let _ = nix::sys::prctl::set_dumpable(false);
    // SAFETY: PR_SET_MDWE takes integers.
    let set = unsafe { libc::prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0_u64, 0_u64, 0_u64) };
    Errno::result(set).map(drop)
}
