// SPDX-License-Identifier: Apache-2.0
//! Disk images: opening one, locking it against other programs, and finding out what it is.
//!
//! Used by whoever opens the image: the jailer, or a backend that runs alone.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};

/// For how long an image that is locked may become free.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// How often to look.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The unit of virtio's capacity and offsets.
pub const SECTOR_BYTES: u64 = 512;

/// An image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("cannot open the image")]
    Open(#[source] std::io::Error),
    /// It is neither a file nor a block device.
    #[error("the image is neither a regular file nor a block device")]
    Kind,
    /// It has no content.
    #[error("the image is empty")]
    Empty,
    /// It has a part of a sector.
    #[error("the image has {0} bytes, which is not a multiple of {SECTOR_BYTES}")]
    PartialSector(u64),
    /// Its file system does not do direct I/O.
    #[error("direct I/O is not supported where the image is")]
    Direct,
    /// It does not give away what it is.
    #[error("cannot examine the image")]
    Examine(#[source] std::io::Error),
    /// Another program has locked it.
    #[error("the image is locked by another program")]
    Locked,
}

/// What a disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Its size: a multiple of [`SECTOR_BYTES`], not zero.
    pub capacity_bytes: u64,
    /// What offsets and lengths must be a multiple of: a power of two of at least 512.
    pub logical_block_bytes: u32,
    /// What is written without reading first: the logical block size or a power of two above it.
    pub physical_block_bytes: u32,
    /// What addresses of buffers must be a multiple of, for direct I/O; 1 without it.
    pub memory_align_bytes: u32,
    /// Whether it is a block device.
    pub block_device: bool,
}

/// How an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Writes will be refused.
    pub readonly: bool,
    /// The page cache is bypassed.
    pub direct: bool,
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
        _ => DiskError::Open(e),
    })?;
    let geometry = examine(&file, access.direct)?;
    // A process that has just ended may hold its image for a moment longer: an io_uring lets go of
    // its files some time after it was closed.
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(&file, access.readonly) {
            Err(DiskError::Locked) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            outcome => return outcome.map(|()| (file, geometry)),
        }
    }
}

/// Finds out what an open image is.
pub fn examine(file: &File, direct: bool) -> Result<Geometry, DiskError> {
    let metadata = file.metadata().map_err(DiskError::Examine)?;
    let kind = metadata.file_type();
    let geometry = if kind.is_block_device() {
        block_device(file, direct)?
    } else if kind.is_file() {
        let aligns = if direct { direct_aligns(file)? } else { None };
        let (memory, offset) = aligns.unwrap_or(if direct { (512, 512) } else { (1, 512) });
        Geometry {
            capacity_bytes: metadata.len(),
            logical_block_bytes: offset.max(512),
            physical_block_bytes: offset.max(4096),
            memory_align_bytes: memory,
            block_device: false,
        }
    } else {
        return Err(DiskError::Kind);
    };
    match geometry.capacity_bytes {
        0 => Err(DiskError::Empty),
        bytes if !bytes.is_multiple_of(SECTOR_BYTES) => Err(DiskError::PartialSector(bytes)),
        _ => Ok(geometry),
    }
}

/// Locks an image against other programs as QEMU does, so that it and we respect each other: open
/// file description locks that readers can share and a writer cannot. They end when the last
/// reference to this opening is gone, in whatever process.
pub fn lock(file: &File, readonly: bool) -> Result<(), DiskError> {
    let (mine, others) = permissions(readonly);
    mark(file, readonly)?;
    // Marks first, then a look at those of others: of two that start at once, at least one sees
    // the other. F_OFD_GETLK answers F_UNLCK if an exclusive lock could be had, that is, if nobody
    // else holds a mark there.
    let conflicts = others
        .iter()
        .map(|n| 100 + n)
        .chain(mine.iter().map(|n| 200 + n));
    for byte in conflicts {
        if is_marked(file, byte)? {
            return Err(DiskError::Locked);
        }
    }
    Ok(())
}

/// Puts the marks of [`lock`] on another opening of an image that is locked already: so they last
/// as long as that opening does.
pub fn mark(file: &File, readonly: bool) -> Result<(), DiskError> {
    let (mine, others) = permissions(readonly);
    let marks = mine.iter().map(|n| 100 + n);
    for byte in marks.chain(others.iter().map(|n| 200 + n)) {
        mark_byte(file, byte)?;
    }
    Ok(())
}

/// QEMU's lock bytes (block/file-posix.c): at 100 + n, a shared lock says "I use permission n"; at
/// 200 + n, "nobody else may use it". 0 is consistent read, 1 write, 3 resize. What we use, and
/// what nobody else may.
fn permissions(readonly: bool) -> (&'static [i64], &'static [i64]) {
    match readonly {
        true => (&[0], &[1, 3]),
        false => (&[0, 1], &[1, 3]),
    }
}

/// Marks one byte of an image, which need not exist, with a lock that can be shared. It ends with
/// this opening.
pub fn mark_byte(file: &File, byte: i64) -> Result<(), DiskError> {
    let lock = lock_byte(libc::F_RDLCK, byte);
    let locked = fcntl(file, FcntlArg::F_OFD_SETLK(&lock));
    locked.map(drop).map_err(|_| DiskError::Locked)
}

/// Whether an opening other than this one has marked a byte.
pub fn is_marked(file: &File, byte: i64) -> Result<bool, DiskError> {
    let mut lock = lock_byte(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|e| DiskError::Examine(e.into()))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn lock_byte(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: 0,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn block_device(file: &File, direct: bool) -> Result<Geometry, DiskError> {
    let (mut bytes, mut logical, mut physical) = (0, 0, 0);
    let fd = file.as_raw_fd();
    ioctl::size(fd, &mut bytes).map_err(|e| DiskError::Examine(e.into()))?;
    ioctl::logical(fd, &mut logical).map_err(|e| DiskError::Examine(e.into()))?;
    ioctl::physical(fd, &mut physical).map_err(|e| DiskError::Examine(e.into()))?;
    let logical = u32::try_from(logical).unwrap_or(512).max(512);
    Ok(Geometry {
        capacity_bytes: bytes,
        logical_block_bytes: logical,
        physical_block_bytes: physical.max(logical),
        memory_align_bytes: if direct { logical } else { 1 },
        block_device: true,
    })
}

/// The wrappers of ioctl(2) that ask a block device about itself.
#[allow(unsafe_code)]
mod ioctl {
    use std::os::fd::RawFd;

    mod raw {
        nix::ioctl_read!(size, 0x12, 114, libc::size_t);
        nix::ioctl_read_bad!(logical, libc::BLKSSZGET, libc::c_int);
        nix::ioctl_read_bad!(physical, libc::BLKPBSZGET, libc::c_uint);
    }

    pub(super) fn size(fd: RawFd, bytes: &mut u64) -> nix::Result<()> {
        let mut size: libc::size_t = 0;
        // SAFETY: BLKGETSIZE64 writes a u64 (size_t in its number) to a variable of that size.
        unsafe { raw::size(fd, &raw mut size) }?;
        *bytes = size as u64;
        Ok(())
    }

    pub(super) fn logical(fd: RawFd, bytes: &mut libc::c_int) -> nix::Result<()> {
        // SAFETY: BLKSSZGET writes an int to a variable of that type.
        unsafe { raw::logical(fd, bytes) }.map(drop)
    }

    pub(super) fn physical(fd: RawFd, bytes: &mut libc::c_uint) -> nix::Result<()> {
        // SAFETY: BLKPBSZGET writes an unsigned int to a variable of that type.
        unsafe { raw::physical(fd, bytes) }.map(drop)
    }
}

/// What a file asks of direct I/O, of addresses and of offsets; `None` if the kernel does not say
/// (before Linux 6.1).
#[allow(unsafe_code)]
fn direct_aligns(file: &File) -> Result<Option<(u32, u32)>, DiskError> {
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a NUL-terminated constant, `answer` a statx buffer; with AT_EMPTY_PATH
    // the call is about the descriptor, which is open.
    let status = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    if status != 0 {
        return Err(DiskError::Examine(std::io::Error::last_os_error()));
    }
    // SAFETY: zeroed above, and every content of the structure is valid.
    let answer = unsafe { answer.assume_init() };
    if answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok(None);
    }
    match (answer.stx_dio_mem_align, answer.stx_dio_offset_align) {
        (0, _) | (_, 0) => Err(DiskError::Direct),
        aligns => Ok(Some(aligns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Access = Access {
        readonly: false,
        direct: false,
    };
    const READ: Access = Access {
        readonly: true,
        direct: false,
    };

    fn image(name: &str, len: u64) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("launch-disk-{}-{name}", std::process::id()));
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
    fn mark_lasts_as_long_as_its_opening() {
        let path = image("marked", 512);
        let (watcher, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        let byte = 1 << 62;
        mark_byte(&other, byte).unwrap();
        let copy = other.try_clone().unwrap();
        drop(other);
        assert!(is_marked(&watcher, byte).unwrap());
        drop(copy);
        assert!(!is_marked(&watcher, byte).unwrap());
        std::fs::remove_file(path).unwrap();
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
