// SPDX-License-Identifier: Apache-2.0
//! Sealed memfds: memory that processes can share without trusting each other, because none of them
//! can shrink it under another (access beyond the end is a SIGBUS) or grow it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

/// A memfd could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} memfd {name} of {len_bytes} bytes")]
pub struct MemfdError {
    name: &'static str,
    len_bytes: u64,
    step: &'static str,
    #[source]
    source: std::io::Error,
}

/// The pages behind a memfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Base pages, or transparent huge pages where the mapping asks for them.
    Shmem,
    /// hugetlb pages of 2 MiB.
    Huge2M,
    /// hugetlb pages of 1 GiB.
    Huge1G,
}

/// Zeroed memory of a fixed size that other processes may map and write.
pub fn shared(name: &'static str, len_bytes: u64, backing: Backing) -> Result<OwnedFd, MemfdError> {
    let fd = create(name, len_bytes, backing)?;
    seal(fd, name, len_bytes, SealFlag::empty())
}

/// A memfd that holds `content` and that no holder of the descriptor can change.
pub fn document(name: &'static str, content: &[u8]) -> Result<OwnedFd, MemfdError> {
    let len_bytes = content.len() as u64;
    let file = File::from(create(name, len_bytes, Backing::Shmem)?);
    let wrote = file.write_all_at(content, 0);
    wrote.map_err(|source| MemfdError {
        name,
        len_bytes,
        step: "write",
        source,
    })?;
    seal(file.into(), name, len_bytes, SealFlag::F_SEAL_WRITE)
}

fn create(name: &'static str, len_bytes: u64, backing: Backing) -> Result<OwnedFd, MemfdError> {
    let failed = |step| {
        move |e: nix::Error| MemfdError {
            name,
            len_bytes,
            step,
            source: e.into(),
        }
    };
    let pages = match backing {
        Backing::Shmem => MFdFlags::empty(),
        Backing::Huge2M => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        Backing::Huge1G => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB,
    };
    let title = CString::new(name).map_err(|_| failed("name")(nix::Error::EINVAL))?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | pages;
    let fd = memfd_create(title.as_c_str(), flags).map_err(failed("create"))?;
    let len = i64::try_from(len_bytes).map_err(|_| failed("size")(nix::Error::EFBIG))?;
    ftruncate(&fd, len).map_err(failed("size"))?;
    Ok(fd)
}

fn seal(
    fd: OwnedFd,
    name: &'static str,
    len_bytes: u64,
    extra: SealFlag,
) -> Result<OwnedFd, MemfdError> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL | extra;
    match fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)) {
        Ok(_) => Ok(fd),
        Err(e) => Err(MemfdError {
            name,
            len_bytes,
            step: "seal",
            source: e.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memfd_can_be_written_but_not_resized() {
        let file = File::from(shared("test", 8192, Backing::Shmem).unwrap());
        file.write_all_at(b"x", 8191).unwrap();
        for len in [0, 4096, 1 << 20] {
            assert!(file.set_len(len).is_err());
        }
    }

    #[test]
    fn document_memfd_cannot_be_changed() {
        let file = File::from(document("test", b"hello").unwrap());
        assert!(file.write_at(b"j", 0).is_err());
        assert!(file.set_len(0).is_err());
        let mut content = [0; 5];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"hello");
    }

    #[test]
    fn memfd_larger_than_a_file_can_be_is_refused() {
        assert!(shared("test", u64::MAX, Backing::Shmem).is_err());
    }
}
