// SPDX-License-Identifier: Apache-2.0
//! Guest memory as the frontend's memory table describes it.
//!
//! vhost-user-backend's protocol thread replaces it; the workers read it.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use nix::sys::mman::{MmapAdvise, madvise};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestRegionMmap};

use crate::{GuestMemory, SharedGuestMemory};

/// Guest memory, with a generation counter that tells workers of a change.
#[derive(Debug)]
pub struct Memory {
    shared: SharedGuestMemory,
    generation: AtomicU32,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            shared: SharedGuestMemory::new(GuestMemory::new()),
            generation: AtomicU32::new(0),
        }
    }
}

impl Memory {
    /// A handle for the thread that replaces it.
    pub fn shared(&self) -> SharedGuestMemory {
        self.shared.clone()
    }

    /// The current memory table.
    pub fn now(&self) -> Arc<GuestMemory> {
        self.shared.memory().into_inner()
    }

    /// The generation: changes with every change of the memory.
    pub fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    /// Called after a replacement: excludes the new mappings from core dumps and makes the workers
    /// look again.
    pub fn replaced(&self) -> io::Result<()> {
        self.now().iter().try_for_each(keep_out_of_dumps)?;
        self.touch();
        Ok(())
    }

    /// Makes the workers look again.
    pub fn touch(&self) {
        self.generation.fetch_add(1, AcqRel);
    }
}

/// Excludes guest memory from core dumps: it may hold the guest's secrets.
#[allow(unsafe_code)]
fn keep_out_of_dumps(region: &GuestRegionMmap<()>) -> io::Result<()> {
    let Some(start) = NonNull::new(region.as_ptr()) else {
        return Ok(());
    };
    // SAFETY: start and size are those of one live mapping, and the advice changes nothing in it.
    unsafe { madvise(start.cast(), region.size(), MmapAdvise::MADV_DONTDUMP) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn memory_that_was_replaced_is_in_no_core_dump() {
        let memory = Memory::default();
        let (generation, table) = (memory.generation(), [(GuestAddress(0), 0x1000)]);
        let table = GuestMemory::from_ranges(&table).unwrap();
        memory.shared().lock().unwrap().replace(table);
        memory.replaced().unwrap();
        assert_ne!(memory.generation(), generation);

        let guest = memory.now();
        let start = guest.iter().next().unwrap().as_ptr().addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps
            .lines()
            .skip_while(|line| !line.starts_with(&format!("{start:x}-")));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
    }
}
