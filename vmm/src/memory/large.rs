// SPDX-License-Identifier: Apache-2.0
//! Large pages for what is loaded into a guest: one page fault for 2 MiB instead of 512, here while the image
//! is copied and again when the guest runs it. Only whole large pages of the image are asked for, so nothing
//! is allocated that would not be. Runs on the main thread, before it is confined.
//!
//! MADV_COLLAPSE (Linux 6.1) needs no setting of the host's, but addresses that are as far from the next large
//! page as they are in the file.
#![allow(unsafe_code)]

use std::error::Error;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{
    Address as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _,
};

use super::GuestMemory;

/// Make large pages of what there is now; `include/uapi/asm-generic/mman-common.h`. The crate libc has it for
/// some targets only.
const MADV_COLLAPSE: i32 = 25;

/// The size of a large page in bytes: what one table of the lowest level maps.
pub(super) fn page_bytes() -> usize {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page
        .and_then(|page| usize::try_from(page).ok())
        .unwrap_or(4096);
    page / size_of::<u64>() * page
}

/// Maps `len_bytes` of a file at an address that is a multiple of `align`, a power of two, for as long as the
/// process lives.
pub(super) fn map(
    file: FileOffset,
    len_bytes: u64,
    align: usize,
    flags: MapFlags,
) -> Result<MmapRegion<()>, Box<dyn Error + Send + Sync>> {
    let len = NonZeroUsize::try_from(usize::try_from(len_bytes)?)?;
    let mapped = map_aligned(file.file(), file.start().try_into()?, len, align, flags)?;
    let builder = MmapRegionBuilder::new(len.get())
        .with_mmap_prot((ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).bits())
        .with_mmap_flags(flags.bits())
        .with_file_offset(file);
    // SAFETY: `mapped` is a mapping of this length of this part of the file, and is never unmapped.
    let builder = unsafe { builder.with_raw_mmap_pointer(mapped.as_ptr()) };
    Ok(builder.build()?)
}

fn map_aligned(
    file: impl AsFd,
    offset: i64,
    len: NonZeroUsize,
    align: usize,
    flags: MapFlags,
) -> nix::Result<NonNull<u8>> {
    let reserved = len.checked_add(align).ok_or(nix::Error::ENOMEM)?;
    let none = ProtFlags::PROT_NONE;
    let lazily = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let start = unsafe { mmap_anonymous(None, reserved, none, lazily) }?;
    let before = start.addr().get().wrapping_neg() & (align - 1);
    let aligned = start.map_addr(|address| address.saturating_add(before));
    let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the `len` bytes from `aligned` are inside the mapping made above, which is `align` bytes larger
    // and which nothing else knows.
    let mapped = unsafe {
        mmap(
            Some(aligned.addr()),
            len,
            both,
            flags | MapFlags::MAP_FIXED,
            file,
            offset,
        )
    };
    let after = aligned.map_addr(|address| address.saturating_add(len.get()));
    match mapped {
        Ok(mapped) => {
            release(start, before);
            release(after, align - before);
            Ok(mapped.cast())
        }
        Err(error) => {
            release(start, reserved.get());
            Err(error)
        }
    }
}

/// Unmaps what was reserved only to be aligned; it costs nothing but addresses if it stays.
fn release(start: NonNull<c_void>, len: usize) {
    if len > 0 {
        // SAFETY: a part of a mapping that `map` made, into which nothing points.
        let _ = unsafe { munmap(start, len) };
    }
}

/// Has the kernel allocate large pages for the whole ones in `len_bytes` of guest memory from `at`. It may
/// decline.
pub fn prefer(memory: &GuestMemory, at: GuestAddress, len_bytes: u64) {
    let large = page_bytes() as u64;
    let Some(region) = memory.find_region(at) else {
        return;
    };
    let end = at.raw_value().saturating_add(len_bytes);
    let end = end.min(region.start_addr().raw_value() + region.len()) & !(large - 1);
    let start = at.raw_value().next_multiple_of(large);
    let Some(Ok(len @ 1..)) = end.checked_sub(start).map(usize::try_from) else {
        return;
    };
    let Ok(host) = memory.get_host_address(GuestAddress(start)) else {
        return;
    };
    // SAFETY: from `host` on `len` bytes are of one region's mapping, which lives as long as `memory`; the
    // advice changes how they are backed, not what they hold.
    let _ = unsafe { libc::madvise(host.cast(), len, MADV_COLLAPSE) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    use ipc::memfd::{Backing, shared};
    use ipc::record::Pages;
    use vm_memory::Bytes as _;

    use super::*;
    use crate::memory::{self, Mapping, Region};

    const HOW: Mapping = Mapping {
        pages: Pages::Base,
        prefault: false,
    };

    fn memory_of(len_bytes: u64) -> (GuestMemory, File) {
        let memfd = shared("ram", len_bytes, Backing::Shmem).unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        let region = Region {
            base: 1 << 32,
            len_bytes,
        };
        (memory::map(memfd, &[region], HOW).unwrap(), file)
    }

    #[test]
    fn memory_begins_where_a_large_page_can() {
        for _ in 0..4 {
            let (memory, _file) = memory_of(1 << 20);
            let start = memory.get_host_address(GuestAddress(1 << 32)).unwrap();
            assert!(start.addr().is_multiple_of(page_bytes()));
        }
    }

    #[test]
    fn only_whole_large_pages_are_allocated_and_nothing_is_lost() {
        let large = page_bytes() as u64;
        let (memory, file) = memory_of(4 * large);
        let at = GuestAddress((1 << 32) + large / 2);
        let word = GuestAddress((1 << 32) + large);
        memory.write_obj(0x1234_u64, word).unwrap();
        let before = file.metadata().unwrap().blocks() * 512;
        // From the middle of the first to the middle of the third: the second is whole.
        prefer(&memory, at, 2 * large);
        let after = file.metadata().unwrap().blocks() * 512;
        assert!(after == before || after == large, "{before} became {after}");
        assert_eq!(memory.read_obj::<u64>(word).unwrap(), 0x1234);
    }

    #[test]
    fn less_than_a_large_page_and_more_than_there_is_are_let_be() {
        let large = page_bytes() as u64;
        let (memory, file) = memory_of(large / 2);
        prefer(&memory, GuestAddress(1 << 32), u64::MAX);
        prefer(&memory, GuestAddress(1 << 20), large);
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
