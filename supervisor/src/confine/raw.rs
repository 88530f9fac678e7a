// SPDX-License-Identifier: Apache-2.0
//! System calls of [`super`].

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::getpid;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, CoreSchedulingScope};
use rustix::thread::{create_core_scheduling_cookie, set_capabilities};
use rustix::thread::{remove_capability_from_bounding_set, set_capabilities_secure_bits};

/// The capabilities that writing a child's uid_map and gid_map takes.
const KEPT: CapabilitySet = CapabilitySet::SETGID.union(CapabilitySet::SETUID);
/// More than any kernel has.
const CAPABILITIES: u32 = 64;
/// User 0 gets no capabilities.
const SECUREBITS: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// The error as the rest of this crate has it.
fn of_nix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// Takes a core-scheduling cookie for this process and all that it will start: meanwhile only they
/// run on the other threads of a core.
pub(super) fn take_core() -> nix::Result<()> {
    create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup).map_err(of_nix)
}

/// A procfs of this pid namespace, with nothing but processes in it, mounted nowhere.
pub(super) fn own_proc() -> nix::Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(of_nix)?;
    fsconfig_set_string(&context, c"subset", c"pid").map_err(of_nix)?;
    fsconfig_create(&context).map_err(of_nix)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(of_nix)
}

/// Wipes the jailer's environment from memory: it is the user's.
#[allow(unsafe_code)]
pub(super) fn forget_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: this process has one thread, and reads no variable after this.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: the array ends in null, and this is not behind its end yet.
        let variable = unsafe { *next };
        if variable.is_null() {
            return;
        }
        // SAFETY: a variable is a C string.
        let len = unsafe { libc::strlen(variable) };
        // SAFETY: the string is that long, in memory that was given to this process alone.
        unsafe { variable.write_bytes(0, len) };
        // SAFETY: this was not the null at the end, so something follows.
        next = unsafe { next.add(1) };
    }
}

/// Keeps only the capabilities in [`KEPT`], which count in this user namespace only, and closes
/// every way to others.
pub(super) fn drop_capabilities() -> nix::Result<()> {
    set_capabilities_secure_bits(SECUREBITS).map_err(of_nix)?;
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // This kernel has no capability of that number.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(of_nix(errno)),
        }
    }
    let kept = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(of_nix)
}
