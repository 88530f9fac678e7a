// SPDX-License-Identifier: Apache-2.0
//! Guest memory: one sealed memfd, mapped as one region below the PCI hole and one above it. The
//! backends map the same memfd; the vmm touches guest memory only to load a kernel into it.

mod large;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use ipc::record::Pages;
use nix::sys::mman::{MapFlags, MmapAdvise, madvise};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
};

pub use large::prefer as prefer_large_pages;

/// Guest memory as a vm-memory type.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Why guest memory cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The length of the memfd differs from the record.
    #[error("the memfd of guest memory is {found} bytes long, not {expected}")]
    Length {
        /// Its length in bytes.
        found: u64,
        /// The length in the record.
        expected: u64,
    },
    /// The length of the memfd cannot be read.
    #[error("cannot examine the memfd of guest memory")]
    Stat(#[source] std::io::Error),
    /// A region could not be mapped.
    #[error("cannot map {len_bytes} bytes of guest memory at {base:#x}")]
    Map {
        /// The guest-physical address of the region.
        base: u64,
        /// The length of the region.
        len_bytes: u64,
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The regions overlap or are out of order.
    #[error("cannot arrange guest memory")]
    Arrange(#[source] vm_memory::GuestRegionCollectionError),
    /// The kernel refused an madvise(2).
    #[error("cannot {what} guest memory")]
    Advise {
        /// What it was for.
        what: &'static str,
        /// The kernel's error.
        #[source]
        source: nix::Error,
    },
}

/// One region of guest memory. Regions follow each other in the memfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The guest-physical address.
    pub base: u64,
    /// The length in bytes.
    pub len_bytes: u64,
}

/// How to map guest memory.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    /// The page size.
    pub pages: Pages,
    /// Whether to allocate all of it now.
    pub prefault: bool,
}

/// Maps the memfd as `regions`, in order.
pub fn map(memfd: OwnedFd, regions: &[Region], how: Mapping) -> Result<GuestMemory, MemoryError> {
    let file = File::from(memfd);
    let expected = regions.iter().map(|region| region.len_bytes).sum();
    let found = file.metadata().map_err(MemoryError::Stat)?.len();
    if found != expected {
        return Err(MemoryError::Length { found, expected });
    }
    let file = std::sync::Arc::new(file);
    let mut offset = 0;
    let mut mapped = Vec::with_capacity(regions.len());
    for region in regions {
        mapped.push(map_region(
            FileOffset::from_arc(file.clone(), offset),
            *region,
            how.pages,
        )?);
        offset += region.len_bytes;
    }
    let memory = GuestMemory::from_regions(mapped).map_err(MemoryError::Arrange)?;
    for region in memory.iter() {
        advise_region(region, how)?;
    }
    Ok(memory)
}

fn map_region(
    file: FileOffset,
    region: Region,
    pages: Pages,
) -> Result<GuestRegionMmap<()>, MemoryError> {
    let Region { base, len_bytes } = region;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| MemoryError::Map {
        base,
        len_bytes,
        source,
    };
    // Huge pages are scarce: reserve them now, or fail to start, instead of a SIGBUS later.
    let flags = match pages {
        Pages::Huge2M | Pages::Huge1G => MapFlags::MAP_SHARED,
        Pages::Base | Pages::Transparent => MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
    };
    let align = match pages {
        Pages::Huge1G => 1 << 30,
        Pages::Base | Pages::Transparent | Pages::Huge2M => large::page_bytes(),
    };
    let mapping = large::map(file, len_bytes, align, flags).map_err(failed)?;
    GuestRegionMmap::new(mapping, GuestAddress(base))
        .ok_or_else(|| failed("it wraps around".into()))
}

fn advise_region(region: &GuestRegionMmap<()>, how: Mapping) -> Result<(), MemoryError> {
    // Core dumps of the vmm must not contain guest memory.
    advise(region, MmapAdvise::MADV_DONTDUMP, "exclude from core dumps")?;
    if how.pages == Pages::Transparent {
        advise(region, MmapAdvise::MADV_HUGEPAGE, "use large pages for")?;
    }
    if how.prefault {
        advise(region, MmapAdvise::MADV_POPULATE_WRITE, "allocate all of")?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn advise(
    region: &GuestRegionMmap<()>,
    advice: MmapAdvise,
    what: &'static str,
) -> Result<(), MemoryError> {
    let Some(start) = NonNull::new(region.as_ptr()) else {
        return Ok(());
    };
    // SAFETY: start and size are those of one live mapping of ours, and none of the three advices
    // above changes its content.
    let advised = unsafe { madvise(start.cast(), region.size(), advice) };
    advised.map_err(|source| MemoryError::Advise { what, source })
}

/// The first address above all guest memory.
pub fn end(memory: &GuestMemory) -> u64 {
    memory.last_addr().raw_value() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::memfd::{Backing, shared};
    use vm_memory::Bytes;

    const HOW: Mapping = Mapping {
        pages: Pages::Base,
        prefault: false,
    };

    #[test]
    fn regions_follow_each_other_in_the_memfd() {
        let memfd = shared("ram", 3 << 20, Backing::Shmem).unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        let regions = [
            Region {
                base: 0,
                len_bytes: 2 << 20,
            },
            Region {
                base: 4 << 30,
                len_bytes: 1 << 20,
            },
        ];
        let memory = map(memfd, &regions, HOW).unwrap();
        memory.write_obj(0x5a_u8, GuestAddress(4 << 30)).unwrap();
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 2 << 20).unwrap();
        assert_eq!((byte[0], end(&memory)), (0x5a, (4 << 30) + (1 << 20)));
        assert!(memory.write_obj(0_u8, GuestAddress(2 << 20)).is_err());
    }

    #[test]
    fn memfd_of_another_length_is_refused() {
        let memfd = shared("ram", 1 << 20, Backing::Shmem).unwrap();
        let error = map(
            memfd,
            &[Region {
                base: 0,
                len_bytes: 2 << 20,
            }],
            HOW,
        )
        .unwrap_err();
        assert!(matches!(
            error,
            MemoryError::Length {
                found: 0x10_0000,
                expected: 0x20_0000
            }
        ));
    }

    #[test]
    fn huge_pages_that_are_not_there_are_missed_at_the_start() {
        // More than any machine has; as a file it costs nothing.
        let len_bytes = 1 << 42;
        let memfd = shared("ram", len_bytes, Backing::Huge2M).unwrap();
        let how = Mapping {
            pages: Pages::Huge2M,
            prefault: false,
        };
        let error = map(memfd, &[Region { base: 0, len_bytes }], how).unwrap_err();
        assert!(matches!(error, MemoryError::Map { base: 0, .. }), "{error}");
    }

    #[test]
    fn memory_prefaulted_is_all_allocated() {
        let memfd = shared("ram", 1 << 20, Backing::Shmem).unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        let how = Mapping {
            pages: Pages::Transparent,
            prefault: true,
        };
        let _memory = map(
            memfd,
            &[Region {
                base: 0,
                len_bytes: 1 << 20,
            }],
            how,
        )
        .unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks * 512 >= 1 << 20);
    }
}
