// SPDX-License-Identifier: Apache-2.0
//! Users for the VM's processes: a range of user ids that no other VM on this host has.
//!
//! A jailer claims a range by a lock on the bytes of these numbers in a file that all of root's
//! jailers share. The kernel releases the lock with the process, however that ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use spec::{SpecError, UidRange, Vm};

/// The first id of the ranges that the jailer picks: beyond those that distributions give to
/// people, services and containers.
const POOL_FIRST: u32 = 0x6000_0000;
/// How many ids such a range has.
const RANGE_COUNT: u32 = 64;
/// How many such ranges there are.
const RANGES: u32 = 1 << 14;
/// The file with the locks.
const FILE: &str = "uids";

/// A range that this jailer has for as long as this is open.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The range.
    pub(crate) range: UidRange,
    _lock: File,
}

/// Claims a range for a VM; `dir` is where the file is, the same for all VMs of root.
pub(crate) fn claim(vm: &Vm, dir: &Path) -> Result<Claim, SpecError> {
    let path = dir.join(FILE);
    let odd = |e: io::Error| SpecError::new("state-dir", path.display(), e);
    let lock = super::private_dir::make(dir).and_then(|()| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(&path)
    });
    let lock = lock.map_err(odd)?;
    let mapped = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if let Some(range) = vm.uid_range {
        let error = |reason: &str| SpecError::new("uid-range", range, reason);
        if !is_mapped(range, &mapped) {
            return Err(error("does not exist in this user namespace"));
        }
        return match take(&lock, range) {
            Ok(true) => Ok(Claim { range, _lock: lock }),
            Ok(false) => Err(error("overlaps with that of another VM that runs")),
            Err(errno) => Err(odd(errno.into())),
        };
    }
    for slot in 0..RANGES {
        let range = UidRange {
            first: POOL_FIRST + slot * RANGE_COUNT,
            count: RANGE_COUNT,
        };
        if !is_mapped(range, &mapped) {
            let reason = "does not exist in this user namespace: name one that does with uid-range";
            return Err(SpecError::new("uid-range", range, reason));
        }
        if take(&lock, range).map_err(|errno| odd(errno.into()))? {
            return Ok(Claim { range, _lock: lock });
        }
    }
    let reason = format!("all {RANGES} ranges from {POOL_FIRST} on are taken");
    Err(SpecError::new("uid-range", "", reason))
}

/// Locks a range, if it is free; returns whether it was.
fn take(file: &File, range: UidRange) -> nix::Result<bool> {
    let lock = libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: 0,
        l_start: range.first.into(),
        l_len: range.count.into(),
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether a user namespace with this map has all numbers of a range.
fn is_mapped(range: UidRange, map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let (Some(Some(first)), _, Some(Some(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        let (low, high) = (
            u64::from(range.first),
            u64::from(range.first) + u64::from(range.count),
        );
        first <= low && high <= first + count
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::VmSpec;
    use std::os::unix::fs::PermissionsExt as _;

    fn vm(range: Option<&str>) -> Vm {
        let mut spec = VmSpec::new("/k");
        spec.uid_range = range.map(|text| text.parse().unwrap());
        Vm::try_from(spec).unwrap()
    }

    #[test]
    fn ranges_of_two_vms_never_overlap_and_are_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(&vm(None), dir.path()).unwrap();
        let second = claim(&vm(None), dir.path()).unwrap();
        assert_eq!(second.range.first, first.range.first + RANGE_COUNT);
        let inside = format!("{}:4", first.range.first + 10);
        let error = claim(&vm(Some(&inside)), dir.path()).unwrap_err();
        assert!(error.reason.contains("another VM"), "{error}");
        drop(first);
        assert!(claim(&vm(Some(&inside)), dir.path()).is_ok());
    }

    #[test]
    fn directory_that_is_made_for_it_is_root_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("run/bulkhead");
        claim(&vm(None), &base).unwrap();
        let mode = std::fs::metadata(&base).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn range_is_looked_for_in_the_map() {
        let map = "         0     100000      65536\n     70000          7         10\n";
        let has = |text: &str| is_mapped(text.parse().unwrap(), map);
        assert!(has("1:65535") && has("70000:10"));
        assert!(!has("1:65536") && !has("69999:2") && !has("70005:6"));
    }
}
