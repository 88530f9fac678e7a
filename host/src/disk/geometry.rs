// SPDX-License-Identifier: Apache-2.0
//! The geometry of an open image: the disk that a guest sees, and the alignment of I/O on the
//! image.
//!
//! The guest's view must not change when an image is copied or opened with direct I/O: a partition
//! table counts logical blocks. So a file is always a disk of 512-byte blocks. If the storage below
//! needs larger blocks, the backend does read-modify-write ([`Geometry::has_partial_blocks`]). A
//! block device keeps its own block size, with direct I/O or not.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use ipc::record::{Geometry, SECTOR_BYTES};

use super::{Access, DiskError};

/// The logical block size of a file.
const FILE_LOGICAL_BYTES: u32 = 512;
/// The physical block size that a guest sees for a file: that of most file systems and disks.
const FILE_PHYSICAL_BYTES: u32 = 4096;
/// The largest block for which the backend does read-modify-write.
const STORAGE_BLOCK_MAX_BYTES: u32 = 64 << 10;

/// Checks that a disk can have this geometry.
pub fn checked(found: Geometry) -> Result<Geometry, DiskError> {
    let block_bytes = found.io_block_bytes();
    match found.capacity_bytes {
        0 => Err(DiskError::Empty),
        bytes if !bytes.is_multiple_of(SECTOR_BYTES) => Err(DiskError::PartialSector(bytes)),
        bytes if !bytes.is_multiple_of(block_bytes.into()) => {
            Err(DiskError::PartialBlock { bytes, block_bytes })
        }
        _ if block_bytes > STORAGE_BLOCK_MAX_BYTES => Err(DiskError::Direct),
        _ => Ok(found),
    }
}

/// The geometry to serve to a running guest that knows `known` when the image is `now`. The backend
/// serves a grown image at the size the guest knows; it cannot serve one that has shrunk.
pub fn for_guest_of(now: Geometry, known: Geometry) -> Result<Geometry, DiskError> {
    if now.capacity_bytes < known.capacity_bytes {
        return Err(DiskError::Shrunk {
            known: known.capacity_bytes,
            now: now.capacity_bytes,
        });
    }
    Ok(Geometry {
        capacity_bytes: known.capacity_bytes,
        ..now
    })
}

/// Finds the geometry of an open image, and checks it.
pub fn examine(file: &File, access: Access) -> Result<Geometry, DiskError> {
    checked(look(file, access)?)
}

/// As [`examine`], without the check of its size.
pub fn look(file: &File, access: Access) -> Result<Geometry, DiskError> {
    let metadata = file.metadata().map_err(DiskError::Examine)?;
    let kind = metadata.file_type();
    if kind.is_block_device() {
        block_device(file, access)
    } else if kind.is_file() {
        regular_file(file, metadata.len(), access)
    } else {
        Err(DiskError::Kind)
    }
}

fn regular_file(file: &File, len_bytes: u64, access: Access) -> Result<Geometry, DiskError> {
    let (memory, offset) = match access.direct {
        true => direct_aligns(file)?.unwrap_or((512, 512)),
        false => (1, 512),
    };
    let logical = access.block_bytes.unwrap_or(FILE_LOGICAL_BYTES);
    Ok(Geometry {
        capacity_bytes: len_bytes,
        logical_block_bytes: logical,
        physical_block_bytes: FILE_PHYSICAL_BYTES.max(logical),
        storage_block_bytes: offset.max(512),
        memory_align_bytes: memory,
        block_device: false,
    })
}

fn block_device(file: &File, access: Access) -> Result<Geometry, DiskError> {
    let (mut bytes, mut logical, mut physical) = (0, 0, 0);
    let fd = file.as_raw_fd();
    ioctl::size(fd, &mut bytes).map_err(|e| DiskError::Examine(e.into()))?;
    ioctl::logical(fd, &mut logical).map_err(|e| DiskError::Examine(e.into()))?;
    ioctl::physical(fd, &mut physical).map_err(|e| DiskError::Examine(e.into()))?;
    let own = u32::try_from(logical).unwrap_or(512).max(512);
    let logical = access.block_bytes.unwrap_or(own);
    Ok(Geometry {
        capacity_bytes: bytes,
        logical_block_bytes: logical,
        physical_block_bytes: physical.max(logical),
        // Even without direct I/O: discards must be aligned to the device's own blocks.
        storage_block_bytes: own,
        memory_align_bytes: if access.direct { own } else { 1 },
        block_device: true,
    })
}

/// Whether every write to a block device fails because it, or the disk of which it is a partition,
/// is read-only.
pub(super) fn is_read_only(device: &File) -> Result<bool, DiskError> {
    let mut flag = 0;
    let asked = ioctl::read_only(device.as_raw_fd(), &mut flag);
    asked.map_err(|e| DiskError::Examine(e.into()))?;
    Ok(flag != 0)
}

/// The ioctls that query a block device.
#[allow(unsafe_code)]
mod ioctl {
    use std::os::fd::RawFd;

    mod raw {
        nix::ioctl_read!(size, 0x12, 114, libc::size_t);
        nix::ioctl_read_bad!(read_only, nix::request_code_none!(0x12, 94), libc::c_int);
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

    pub(super) fn read_only(fd: RawFd, flag: &mut libc::c_int) -> nix::Result<()> {
        // SAFETY: BLKROGET writes an int to a variable of that type.
        unsafe { raw::read_only(fd, flag) }.map(drop)
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

/// The memory and offset alignment that direct I/O on a file needs; `None` if the kernel does not
/// report it (before Linux 6.1).
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
