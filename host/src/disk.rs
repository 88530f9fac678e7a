// SPDX-License-Identifier: Apache-2.0
//! Disk images: opening, locking against other programs, and geometry.
//!
//! The jailer opens the image of a supervised backend; a standalone backend opens its own.

mod geometry;
mod lock;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use geometry::is_read_only;
pub use geometry::{checked, examine, for_guest_of, look};
use ipc::record::{Geometry, SECTOR_BYTES};
pub use lock::{is_marked, lock, mark, mark_byte};
use nix::errno::Errno;

/// How long to wait for a locked image to become free.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// How often to retry the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Why an image cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("cannot open the image")]
    Open(#[source] std::io::Error),
    /// It can be read but not written: its mode, attributes, file system or block device forbid it.
    #[error("it can only be read: add readonly")]
    ReadOnly(#[source] std::io::Error),
    /// It is neither a file nor a block device.
    #[error("the image is neither a regular file nor a block device")]
    Kind,
    /// It has no content.
    #[error("the image is empty")]
    Empty,
    /// Its last sector is incomplete.
    #[error("the image has {0} bytes, which is not a multiple of {SECTOR_BYTES}")]
    PartialSector(u64),
    /// It is smaller than the disk the guest already uses.
    #[error(
        "the image has shrunk to {now} bytes, and the guest's disk has {known}: \
         make it as large again"
    )]
    Shrunk {
        /// The size of the guest's disk in bytes.
        known: u64,
        /// The size of the image in bytes.
        now: u64,
    },
    /// Its last block is incomplete: a logical block of the guest, or a block of the storage below
    /// direct I/O.
    #[error("the image has {bytes} bytes, which is not a multiple of its blocks of {block_bytes}")]
    PartialBlock {
        /// The size of the image in bytes.
        bytes: u64,
        /// The block size in bytes.
        block_bytes: u32,
    },
    /// Its file system does not do direct I/O.
    #[error("direct I/O is not supported where the image is")]
    Direct,
    /// The kernel does not report its size or block sizes.
    #[error("cannot examine the image")]
    Examine(#[source] std::io::Error),
    /// Another program has locked it.
    #[error("the image is locked by another program")]
    Locked,
}

/// How an image is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// The backend refuses writes.
    pub readonly: bool,
    /// I/O bypasses the page cache.
    pub direct: bool,
    /// The guest's logical block size; `None` is the default: 512 for a file, the device's own for
    /// a block device.
    pub block_bytes: Option<u32>,
}

/// Opens and locks an image.
pub fn open(path: &Path, access: Access) -> Result<(File, Geometry), DiskError> {
    let mut flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    if access.direct {
        flags |= libc::O_DIRECT;
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(!access.readonly)
        .custom_flags(flags)
        .open(path);
    let file = opened.map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) if access.direct => DiskError::Direct,
        // Only a FIFO, socket or device without a driver answers so.
        Some(libc::ENXIO) => DiskError::Kind,
        Some(libc::EISDIR) => DiskError::Kind,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if !access.readonly && is_readable(path) => {
            DiskError::ReadOnly(e)
        }
        _ => DiskError::Open(e),
    })?;
    let geometry = examine(&file, access)?;
    // The kernel still opens a read-only block device for writing and fails each write.
    if !access.readonly && geometry.block_device && is_read_only(&file)? {
        return Err(DiskError::ReadOnly(Errno::EROFS.into()));
    }
    // A process that has just exited may hold the lock a moment longer: the kernel releases an
    // io_uring's files some time after the ring is closed.
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(&file, access.readonly) {
            Err(DiskError::Locked) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            outcome => return outcome.map(|()| (file, geometry)),
        }
    }
}

fn is_readable(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Access = Access {
        readonly: false,
        direct: false,
        block_bytes: None,
    };
    const READ: Access = Access {
        readonly: true,
        direct: false,
        block_bytes: None,
    };

    pub(super) fn image(name: &str, len: u64) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("host-disk-{}-{name}", std::process::id()));
        File::create(&path).unwrap().set_len(len).unwrap();
        path
    }

    #[test]
    fn image_of_whole_sectors_is_a_disk() {
        let path = image("whole", 1024);
        let (_file, geometry) = open(&path, WRITE).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(geometry.capacity_bytes, 1024);
        assert_eq!(geometry.logical_block_bytes, 512);
    }

    #[test]
    fn image_grown_is_what_the_guest_knows_and_one_that_shrank_is_refused_with_both_sizes() {
        let path = image("resized", 4096);
        let (file, known) = open(&path, WRITE).unwrap();
        for len in [4096, 4097, 1 << 20] {
            file.set_len(len).unwrap();
            let now = look(&file, WRITE).unwrap();
            assert_eq!(for_guest_of(now, known).unwrap(), known);
        }
        for len in [4095, 512, 0] {
            file.set_len(len).unwrap();
            let now = look(&file, WRITE).unwrap();
            let told = for_guest_of(now, known).unwrap_err().to_string();
            let sizes = format!("to {len} bytes, and the guest's disk has 4096:");
            assert!(told.contains(&sizes), "{told}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn image_empty_partial_missing_or_no_file_is_refused() {
        let path = image("odd", 513);
        assert!(matches!(
            open(&path, READ),
            Err(DiskError::PartialSector(513))
        ));
        File::create(&path).unwrap();
        assert!(matches!(open(&path, READ), Err(DiskError::Empty)));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open(&path, READ), Err(DiskError::Open(_))));
        for path in ["/dev/null", "/tmp"] {
            assert!(matches!(open(path.as_ref(), READ), Err(DiskError::Kind)));
        }
    }

    #[test]
    fn image_open_for_writing_is_locked_against_everyone_and_read_only_against_writers() {
        let path = image("locked", 512);
        let writer = open(&path, WRITE).unwrap();
        assert!(matches!(open(&path, READ), Err(DiskError::Locked)));
        assert!(matches!(open(&path, WRITE), Err(DiskError::Locked)));
        drop(writer);
        let reader = open(&path, READ).unwrap();
        let other = open(&path, READ).unwrap();
        assert!(matches!(open(&path, WRITE), Err(DiskError::Locked)));
        drop((reader, other));
        open(&path, WRITE).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
