// SPDX-License-Identifier: Apache-2.0
//! The in-flight region of a backend: a sealed memfd in which it records its requests in progress,
//! so that the next backend can continue them. Backends of ours inherit it; the frontend passes it
//! to external ones that support it. The frontend only clears its content, at a device reset, so
//! that the next backend does not repeat requests from before the reset.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// The longest region: 256 queues of 32768 entries.
const LEN_MAX: u64 = 256 * (16 * 32768 + 64);

/// Why the region cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// Its length cannot be read.
    #[error("cannot examine the in-flight region")]
    Examine(#[source] std::io::Error),
    /// It could be shrunk while it is mapped.
    #[error("the in-flight region is not sealed")]
    Unsealed,
    /// It is empty or too long.
    #[error("an in-flight region of {0} bytes is not possible")]
    Length(u64),
    /// It could not be mapped.
    #[error("cannot map the in-flight region")]
    Map(#[source] MmapRegionError),
}

/// A mapped region.
#[derive(Debug)]
pub struct InflightRegion(MmapRegion<()>);

impl InflightRegion {
    /// Maps the region.
    pub fn map(fd: OwnedFd) -> Result<Self, InflightError> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
        if !seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_SHRINK)) {
            return Err(InflightError::Unsealed);
        }
        let file = File::from(fd);
        let len = file.metadata().map_err(InflightError::Examine)?.len();
        let size = usize::try_from(len).map_err(|_| InflightError::Length(len))?;
        if len == 0 || len > LEN_MAX {
            return Err(InflightError::Length(len));
        }
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size);
        region.map(Self).map_err(InflightError::Map)
    }

    /// Its length in bytes.
    pub(super) fn len_bytes(&self) -> u64 {
        self.0.size() as u64
    }

    /// The memfd, open as long as `self` lives.
    pub(super) fn fd(&self) -> Option<RawFd> {
        let file = self.0.file_offset()?.file();
        Some(file.as_raw_fd())
    }

    /// Zeroes the region.
    pub fn clear(&self) {
        const ZEROES: [u8; 4096] = [0; 4096];
        let all = self.0.as_volatile_slice();
        for offset in (0..all.len()).step_by(ZEROES.len()) {
            let len = ZEROES.len().min(all.len() - offset);
            // `offset` is below the length and `len` is at most the rest, so the part exists.
            if let Ok(part) = all.subslice(offset, len) {
                part.copy_from(&ZEROES[..len]);
            }
        }
    }
}
