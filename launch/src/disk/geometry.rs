// SPDX-License-Identifier: Apache-2.0
//! What an open image is: its size, and what I/O on it must be aligned to.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use serde::{Deserialize, Serialize};

use super::{DiskError, SECTOR_BYTES};

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
