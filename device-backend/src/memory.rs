// SPDX-License-Identifier: Apache-2.0
//! Guest memory as the frontend's memory table describes it.
//!
//! Replaced by the protocol thread, through vhost-user-backend; looked at by the workers.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use nix::sys::mman::{MmapAdvise, madvise};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestRegionMmap};

use crate::{GuestMemory, SharedGuestMemory};

/// Guest memory, and a number by which a worker sees that it has changed.
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
    /// For who replaces it.
    pub fn shared(&self) -> SharedGuestMemory {
        self.shared.clone()
    }

    /// Guest memory as it is now.
    pub fn now(&self) -> Arc<GuestMemory> {
        self.shared.memory().into_inner()
    }

    /// A number that is another one after every change.
    pub fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    /// It was replaced: keeps what is mapped now out of core dumps, and has the workers look again.
    pub fn replaced(&self) -> io::Result<()> {
        self.now().iter().try_for_each(keep_out_of_dumps)?;
        self.touch();
        Ok(())
    }

    /// Has whoever uses it look again.
    pub fn touch(&self) {
        self.generation.fetch_add(1, AcqRel);
    }
}

/// Guest memory is the guest's.
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
