// SPDX-License-Identifier: Apache-2.0
//! Which of the kernel's confinement features are missing: the words for the log of each VM that
//! runs without them, and for `bulkhead doctor`.

#![allow(unsafe_code)]

use nix::errno::Errno;

/// For a kernel without PR_SET_MDWE, on which a process may execute memory that it has written.
pub const NO_MDWE: &str =
    "this kernel is older than 6.3: what a process has written it may execute";
/// LANDLOCK_CREATE_RULESET_VERSION
const LANDLOCK_VERSION: libc::c_uint = 1;
/// What Landlock denies only since some version of its ABI; every version denies file access.
/// Before version 2, Landlock always denies moving files to other directories.
const DENIED_SINCE: [(i32, &str); 4] = [
    (3, "truncating files"),
    (4, "TCP"),
    (5, "ioctls of devices"),
    (6, "abstract sockets and signals"),
];

/// The version of Landlock's ABI that this kernel has.
pub fn landlock_version() -> Result<i32, Errno> {
    let (attr, size) = (std::ptr::null::<libc::c_void>(), 0_usize);
    // SAFETY: with this flag the call takes no attributes.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            attr,
            size,
            LANDLOCK_VERSION,
        )
    };
    Errno::result(version).map(|version| i32::try_from(version).unwrap_or(i32::MAX))
}

/// What a kernel with this version of Landlock supports, or what it lacks.
pub fn landlock(version: Result<i32, Errno>) -> Result<String, String> {
    let lacks = |what: &str| {
        Err(format!(
            "{what}: namespaces and filters alone confine processes"
        ))
    };
    match version {
        Ok(version) => {
            let later = DENIED_SINCE.iter().filter(|(since, _)| version < *since);
            let undenied: Vec<_> = later.map(|(_, what)| *what).collect();
            match undenied.is_empty() {
                true => Ok(format!("ABI {version}")),
                false => Err(format!(
                    "ABI {version} cannot deny {}: namespaces and filters alone do",
                    undenied.join(", ")
                )),
            }
        }
        Err(Errno::EOPNOTSUPP) => lacks("it is built in but off (add landlock to lsm= at boot)"),
        Err(_) => lacks("this kernel is older than 5.13, or built without it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landlock_of_each_version_is_told_with_what_it_cannot_deny() {
        let undenied = |version| {
            let said = landlock(Ok(version)).unwrap_err();
            let (_, list) = said.split_once(" cannot deny ").unwrap();
            assert!(said.starts_with(&format!("ABI {version} ")), "{said}");
            list.split_once(':').unwrap().0.to_owned()
        };
        let all = "truncating files, TCP, ioctls of devices, abstract sockets and signals";
        assert_eq!(undenied(1), all);
        assert_eq!(undenied(2), all);
        assert_eq!(
            undenied(3),
            "TCP, ioctls of devices, abstract sockets and signals"
        );
        assert_eq!(
            undenied(4),
            "ioctls of devices, abstract sockets and signals"
        );
        assert_eq!(undenied(5), "abstract sockets and signals");
        assert_eq!(landlock(Ok(6)).as_deref(), Ok("ABI 6"));
        assert_eq!(landlock(Ok(7)).as_deref(), Ok("ABI 7"));
    }

    #[test]
    fn landlock_that_is_off_or_not_there_is_told_apart() {
        let off = landlock(Err(Errno::EOPNOTSUPP)).unwrap_err();
        let none = landlock(Err(Errno::ENOSYS)).unwrap_err();
        assert!(
            off.contains("lsm=") && none.contains("5.13"),
            "{off} {none}"
        );
        for said in [off, none] {
            assert!(said.ends_with("namespaces and filters alone confine processes"));
        }
    }
}
