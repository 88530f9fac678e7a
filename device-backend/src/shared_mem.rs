// SPDX-License-Identifier: Apache-2.0
//! Shared memory that an untrusted process may write at any time.
//!
//! No Rust reference to plain data ever points into it. This module accesses it through atomics,
//! one naturally aligned integer at a time; the caller checks the value that one read returned.

use std::any::Any;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::GuestMemory;

/// Why a range or a file cannot be used as shared memory.
#[derive(Debug, thiserror::Error)]
pub enum SharedMemError {
    /// The range is not wholly inside one region of guest memory.
    #[error("guest memory has no {len_bytes} bytes at {address:#x}")]
    Outside {
        /// Where the range begins.
        address: u64,
        /// Its length.
        len_bytes: usize,
    },
    /// A file could not be mapped.
    #[error("cannot map {0} shared bytes")]
    Map(usize, #[source] nix::Error),
}

/// A range of shared memory. It stays mapped as long as this value exists.
#[derive(Debug, Clone)]
pub struct SharedMem {
    base: NonNull<u8>,
    len_bytes: usize,
    _keep: Arc<dyn Any + Send + Sync>,
}

/// An integer in shared memory.
pub trait AtomicField: private::Sealed {}
impl AtomicField for AtomicU8 {}
impl AtomicField for AtomicU16 {}
impl AtomicField for AtomicU32 {}
impl AtomicField for AtomicU64 {}

mod private {
    /// Implemented for types that are valid for every bit pattern and may change at any time.
    pub trait Sealed {}
    impl Sealed for super::AtomicU8 {}
    impl Sealed for super::AtomicU16 {}
    impl Sealed for super::AtomicU32 {}
    impl Sealed for super::AtomicU64 {}
}

impl SharedMem {
    /// A range of guest memory; it must lie inside one region.
    pub fn of_guest(
        memory: &Arc<GuestMemory>,
        address: GuestAddress,
        len_bytes: usize,
    ) -> Result<Self, SharedMemError> {
        let outside = || SharedMemError::Outside {
            address: address.0,
            len_bytes,
        };
        let slice = memory
            .get_slice(address, len_bytes)
            .map_err(|_| outside())?;
        let base = NonNull::new(slice.ptr_guard_mut().as_ptr()).ok_or_else(outside)?;
        Ok(Self {
            base,
            len_bytes,
            _keep: memory.clone(),
        })
    }

    /// The first `len_bytes` of a file, shared. The file must be sealed against shrinking, or be
    /// private to this process: access to a page beyond the end of the file raises SIGBUS.
    #[allow(unsafe_code)]
    pub fn of_file(fd: impl AsFd, len_bytes: usize) -> Result<Self, SharedMemError> {
        let failed = |source| SharedMemError::Map(len_bytes, source);
        let length = NonZeroUsize::new(len_bytes).ok_or(failed(nix::Error::EINVAL))?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
        let base = unsafe { mmap(None, length, prot, MapFlags::MAP_SHARED, fd, 0) };
        let base = base.map_err(failed)?.cast();
        Ok(Self {
            base,
            len_bytes,
            _keep: Arc::new(Mapping { base, len_bytes }),
        })
    }

    /// Zeroed memory of this process alone.
    pub fn private(len_bytes: usize) -> Self {
        let words: Arc<[AtomicU64]> = (0..len_bytes.div_ceil(8))
            .map(|_| AtomicU64::new(0))
            .collect();
        let base = NonNull::from(&*words).cast();
        Self {
            base,
            len_bytes,
            _keep: Arc::new(words),
        }
    }

    /// Its length.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether its first byte is aligned to `align_bytes` in this process.
    pub fn is_aligned(&self, align_bytes: usize) -> bool {
        self.base.as_ptr().addr().is_multiple_of(align_bytes)
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the part is not wholly inside the range or not aligned to 8 bytes, like slicing.
    #[allow(unsafe_code)]
    pub fn part(&self, offset: usize, len_bytes: usize) -> Self {
        assert!(offset.is_multiple_of(8) && offset <= self.len_bytes);
        assert!(len_bytes <= self.len_bytes - offset);
        // SAFETY: `offset` is at most the length of the mapping (asserted above).
        let base = unsafe { self.base.add(offset) };
        Self {
            base,
            len_bytes,
            _keep: self._keep.clone(),
        }
    }

    /// The integer at `offset`.
    ///
    /// # Panics
    /// If it is not wholly inside the range or not aligned, like indexing a slice: callers mask
    /// their indices.
    #[allow(unsafe_code)]
    pub fn at<C: AtomicField>(&self, offset: usize) -> &C {
        assert!(size_of::<C>() <= self.len_bytes && offset <= self.len_bytes - size_of::<C>());
        let cell = self.base.as_ptr().wrapping_add(offset).cast::<C>();
        assert!(cell.is_aligned());
        // SAFETY: in bounds and aligned (both asserted above) in a mapping that `_keep` holds; C is
        // an atomic integer (sealed), so that every content is valid and concurrent writes are too.
        unsafe { &*cell }
    }
}

#[allow(unsafe_code)]
// SAFETY: the memory is only used through references to atomics, and `_keep` is Send and Sync.
unsafe impl Send for SharedMem {}
#[allow(unsafe_code)]
// SAFETY: as for Send.
unsafe impl Sync for SharedMem {}

/// A mapping, unmapped when the last range of it is dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and no range of it is left.
        let _ = unsafe { munmap(self.base.cast(), self.len_bytes) };
    }
}

#[allow(unsafe_code)]
// SAFETY: only dropping it touches the mapping, and munmap may be called from any thread.
unsafe impl Send for Mapping {}
#[allow(unsafe_code)]
// SAFETY: it has no methods.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn window_of_a_file_is_shared_with_every_other() {
        let file = tempfile();
        let (a, b) = (SharedMem::of_file(&file, 64), SharedMem::of_file(&file, 64));
        a.unwrap().at::<AtomicU32>(60).store(7, Relaxed);
        assert_eq!(b.unwrap().at::<AtomicU32>(60).load(Relaxed), 7);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn window_read_past_its_end_is_refused() {
        SharedMem::private(16).at::<AtomicU64>(9);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn window_read_unaligned_is_refused() {
        SharedMem::private(16).at::<AtomicU32>(2);
    }

    #[test]
    fn window_outside_guest_memory_is_an_error() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap();
        let memory = Arc::new(memory);
        assert!(SharedMem::of_guest(&memory, GuestAddress(0x1ff0), 16).is_ok());
        for address in [0xff0, 0x1ff1, u64::MAX] {
            assert!(SharedMem::of_guest(&memory, GuestAddress(address), 16).is_err());
        }
    }

    fn tempfile() -> std::os::fd::OwnedFd {
        let flags = nix::sys::memfd::MFdFlags::empty();
        let fd = nix::sys::memfd::memfd_create(c"test", flags).unwrap();
        nix::unistd::ftruncate(&fd, 64).unwrap();
        fd
    }
}
