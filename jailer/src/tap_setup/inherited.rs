// SPDX-License-Identifier: Apache-2.0
//! Taps that the starter of the VM has opened. The jailer checks them and leaves them as they are:
//! it neither renames them, brings them up, makes them ports, nor removes them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::tap::{self, TapError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::geteuid;
use spec::SpecError;

use super::link::has_packet_information;
use super::{OpenTap, Origin};

/// The file with the locks of all VMs of a user.
const FILE: &str = "taps";

/// Takes the queues of an inherited tap out of `open`.
pub(super) fn take(
    fds: &[RawFd],
    open: &mut BTreeMap<RawFd, OwnedFd>,
) -> Result<OpenTap, SpecError> {
    let mut queues = Vec::new();
    for number in fds {
        let queue = open.remove(number).ok_or_else(|| {
            let reason = "no descriptor of this number is open, or the jailer's --tap-fd does not \
                          name it";
            refused(*number, reason)
        })?;
        // One by one first, so that the line names the right one.
        tap::check(queue.as_fd()).map_err(|error| refused(*number, &remedy(&error)))?;
        queues.push(queue);
    }
    let (Some(number), Some(first)) = (fds.first().copied(), queues.first()) else {
        return Err(SpecError::new("net.fd", "", "must name a descriptor"));
    };
    let name = tap::inherit(&queues).map_err(|error| refused(number, &remedy(&error)))?;
    let namespace =
        namespace(first.as_fd()).map_err(|error| refused(number, &error.to_string()))?;
    if namespace.is_ours && has_packet_information(&name) == Some(true) {
        return Err(refused(
            number,
            "was attached without IFF_NO_PI: attach it with",
        ));
    }
    let lock = lock(namespace.number, &name).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let reason = format!("its tap {name:?} is in use by another VM or card");
            refused(number, &reason)
        }
        _ => refused(number, &format!("cannot lock its tap {name:?}: {error}")),
    })?;
    let uso = tap::has_uso(first.as_fd());
    Ok(OpenTap {
        queues,
        uso,
        origin: Origin::Inherited { _lock: lock },
    })
}

fn refused(number: RawFd, reason: &str) -> SpecError {
    SpecError::new("net.fd", number, reason)
}

fn remedy(error: &TapError) -> String {
    match error {
        TapError::NotTap => "is no queue of a tap: open /dev/net/tun and attach it".into(),
        TapError::Flags(flags) => {
            let lacking = [
                (libc::IFF_TAP, "IFF_TAP"),
                (libc::IFF_NO_PI, "IFF_NO_PI"),
                (libc::IFF_VNET_HDR, "IFF_VNET_HDR"),
            ];
            let lacking = lacking.iter().filter(|(flag, _)| flags & flag == 0);
            let names: Vec<_> = lacking.map(|(_, name)| *name).collect();
            format!(
                "was attached without {}: attach it with",
                names.join(" and ")
            )
        }
        TapError::SingleQueue => {
            "several descriptors need a tap that was attached with IFF_MULTI_QUEUE".into()
        }
        _ => host::log::chain(error),
    }
}

/// A network namespace.
struct Namespace {
    number: u64,
    is_ours: bool,
}

/// The namespace that a tap is in: ours, unless the kernel says otherwise.
fn namespace(queue: BorrowedFd<'_>) -> io::Result<Namespace> {
    let ours = std::fs::metadata("/proc/self/ns/net")?.ino();
    let number = match tap::namespace(queue) {
        Some(namespace) => File::from(namespace).metadata()?.ino(),
        None => ours,
    };
    Ok(Namespace {
        number,
        is_ours: number == ours,
    })
}

/// Keeps other VMs of this user from a tap: a lock on one byte, which ends with the jailer. The
/// kernel lets any process with its descriptor use a tap.
fn lock(namespace: u64, name: &str) -> io::Result<Option<File>> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = spec::state::base(None, geteuid().is_root(), runtime_dir.as_deref());
    // A user without a session has no place that all their VMs know.
    let Ok(base) = base else {
        return Ok(None);
    };
    lock_in(&base, byte(namespace, name)).map(Some)
}

fn lock_in(base: &Path, byte: i64) -> io::Result<File> {
    crate::private_dir::make(base)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = options
        .custom_flags(libc::O_NOFOLLOW)
        .open(base.join(FILE))?;
    let lock = libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: 0,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// The byte that stands for a tap of a network namespace.
fn byte(namespace: u64, name: &str) -> i64 {
    let number = namespace.to_le_bytes();
    // FNV-1a: the same in every version of the jailer.
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let all = number.iter().chain(name.as_bytes());
    let hashed = all.fold(0xcbf2_9ce4_8422_2325, hash);
    (hashed >> 2).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn descriptor_that_is_closed_or_no_tap_is_refused_by_its_number() {
        let null = File::open("/dev/null").unwrap();
        let number = null.as_raw_fd();
        let mut open = BTreeMap::from([(number, OwnedFd::from(null))]);
        let error = take(&[5000], &mut open).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("net.fd \"5000\": no descriptor")
        );
        let error = take(&[number], &mut open).unwrap_err();
        let wanted = format!("net.fd \"{number}\": is no queue of a tap");
        assert!(error.to_string().starts_with(&wanted), "{error}");
    }

    #[test]
    fn flags_that_are_missing_are_named() {
        let reason = remedy(&TapError::Flags(libc::IFF_TAP));
        assert!(
            reason.contains("without IFF_NO_PI and IFF_VNET_HDR"),
            "{reason}"
        );
    }

    #[test]
    fn tap_is_locked_as_long_as_its_lock_is_open() {
        let base = tempfile::tempdir().unwrap();
        let held = lock_in(base.path(), byte(7, "tap0")).unwrap();
        let refused = lock_in(base.path(), byte(7, "tap0")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(lock_in(base.path(), byte(7, "tap1")).is_ok());
        assert!(lock_in(base.path(), byte(8, "tap0")).is_ok());
        drop(held);
        assert!(lock_in(base.path(), byte(7, "tap0")).is_ok());
    }
}
