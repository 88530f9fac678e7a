// SPDX-License-Identifier: Apache-2.0
//! The supervisor's first act: it started as a clone of the jailer, in namespaces of its own, and
//! gives up everything of the host that the clone still has.

use std::os::fd::{OwnedFd, RawFd};

use handover::users::supervisors_user;
use host::descriptors;
use host::lacking::{self, NO_MDWE};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, pivot_root, setgroups, setresgid, setresuid, setsid};

mod raw;

/// As many descriptors as the largest VM needs, with all the clients it may have.
const DESCRIPTORS_MAX: u64 = 2048;

/// The supervisor could not give up what it must not have.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the supervisor: cannot {step}")]
pub(crate) struct ConfineError {
    step: &'static str,
    #[source]
    source: Errno,
}

fn step<T>(step: &'static str, outcome: nix::Result<T>) -> Result<T, ConfineError> {
    outcome.map_err(|source| ConfineError { step, source })
}

/// Keeps the descriptors in `kept` (in order) and closes every other one; 0 and 1 become `null`, 2
/// becomes `log`.
pub(crate) fn keep_only(kept: &[RawFd], null: RawFd, log: RawFd) -> Result<(), ConfineError> {
    let done = descriptors::keep_only(kept, null, log);
    done.map_err(|(step, source)| ConfineError { step, source })
}

/// Becomes the first user of the VM's range, in an empty root, with the two capabilities that it
/// needs to give children users of their own. Returns the only file system that it still reaches:
/// the processes of its own pid namespace, mounted nowhere.
pub(crate) fn confine(has_range: bool) -> Result<OwnedFd, ConfineError> {
    raw::forget_environment();
    let number = supervisors_user(has_range).into();
    let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
    if has_range {
        step("drop its groups", setgroups(&[]))?;
    }
    step("change its group", setresgid(group, group, group))?;
    step("change its user", setresuid(user, user, user))?;
    // The kernel clears this when the user changes, so it comes after that. The jailer's death also
    // closes the socket to it.
    let death = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    step("be bound to the jailer's life", death)?;
    step("leave the session", setsid().map(drop))?;
    umask(Mode::from_bits_truncate(0o077));
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    step("part its mounts from the host's", remount(private))?;
    let processes = step("mount a proc of its own", raw::own_proc())?;
    step("leave the host's root", leave_root())?;
    limit()?;
    match raw::take_core() {
        // ENODEV: no threads share a core, so nothing needs to be kept apart.
        Ok(()) | Err(Errno::ENODEV) => {}
        Err(_) => log::warn!("this kernel has no core scheduling: other VMs may share its cores"),
    }
    step("drop its capabilities", raw::drop_capabilities())?;
    step("set no_new_privs", nix::sys::prctl::set_no_new_privs())?;
    if host::process::harden().is_err() {
        log::warn!("MDWE: {NO_MDWE}");
    }
    if let Err(lacks) = lacking::landlock(lacking::landlock_version()) {
        log::warn!("Landlock: {lacks}");
    }
    Ok(processes)
}

fn remount(flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
}

/// Makes an empty directory the root; nothing of the host is mounted below or behind it.
fn leave_root() -> nix::Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any directory will do; /proc is there, because the jailer has used it.
    let place = "/proc";
    let options = Some("mode=0555,nr_inodes=1,size=4k");
    mount(Some("empty"), place, Some("tmpfs"), flags, options)?;
    chdir(place)?;
    // This stacks the old root on top of the new one, from where it is unmounted.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn limit() -> Result<(), ConfineError> {
    let lower = |resource, most: u64| {
        let (_, hard) = getrlimit(resource)?;
        setrlimit(resource, most.min(hard), most.min(hard))
    };
    let set = lower(Resource::RLIMIT_CORE, 0);
    step("limit its core dumps", set)?;
    let set = lower(Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX);
    step("limit its descriptors", set)
}
