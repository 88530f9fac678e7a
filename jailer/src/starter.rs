// SPDX-License-Identifier: Apache-2.0
//! What a process inherits from its starter beside descriptors and signals: resource limits
//! (getrlimit(2)) and the umask. The jailer raises a limit that would only be in the way, as far as
//! the starter allows. It keeps a limit that says how much a VM may use, and refuses a VM that does
//! not fit under it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use spec::ByteSize;

/// How many descriptors the jailer and each process of a VM may have open: more than the largest VM
/// needs.
const DESCRIPTORS: u64 = 2048;
/// The least that any VM needs: the supervisor parks the descriptors for children above number 64.
const DESCRIPTORS_MIN: u64 = 256;
/// Since Linux 6.14 the rings of a VM's disks count as locked memory; they take much less than
/// this.
const LOCKED_BYTES: u64 = 1 << 30;

/// The starter allows too few descriptors, and this user cannot raise the limit.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit on open files that the jailer was started with, {0}, is too low: raise it to \
     {DESCRIPTORS} (ulimit -n, or LimitNOFILE= of a service)"
)]
pub(super) struct TooFewDescriptors(u64);

/// Makes the jailer independent of its starter. Call it before anything is made.
///
/// # Errors
/// When no VM can run under a limit that cannot be raised.
pub(super) fn part_with() -> Result<(), TooFewDescriptors> {
    // Files for other users get their mode explicitly.
    umask(Mode::from_bits_truncate(0o077));
    for (resource, wanted) in [
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_MEMLOCK, LOCKED_BYTES),
    ] {
        let Ok((soft, hard)) = getrlimit(resource) else {
            continue;
        };
        let most = hard.max(wanted);
        // Only root may raise a hard limit; other users raise the soft limit to it.
        if soft < most && setrlimit(resource, most, most).is_err() {
            let _ = setrlimit(resource, hard, hard);
        }
    }
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft < DESCRIPTORS_MIN => Err(TooFewDescriptors(soft)),
        _ => Ok(()),
    }
}

/// Why a file or memory of so many bytes cannot be had, if RLIMIT_FSIZE forbids it; guest memory is
/// a file, too.
pub(super) fn is_too_large(bytes: u64) -> Option<String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE).ok()?;
    refusal(bytes, limit)
}

fn refusal(bytes: u64, limit: u64) -> Option<String> {
    (bytes > limit).then(|| {
        format!(
            "is more than the limit on file sizes that the jailer was started with, {}: raise it \
             (ulimit -f, or LimitFSIZE= of a service)",
            ByteSize(limit)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_above_the_limit_is_refused_with_limit_and_remedy() {
        assert_eq!(refusal(4096, 4096), None);
        assert_eq!(refusal(u64::MAX, libc::RLIM_INFINITY), None);
        let told = refusal(4097, 4096).unwrap();
        assert!(told.contains("4K") && told.contains("ulimit -f"), "{told}");
    }
}
