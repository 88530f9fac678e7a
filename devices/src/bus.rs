// SPDX-License-Identifier: Apache-2.0
//! An address space: which device owns which addresses. A machine has one for memory-mapped I/O
//! and, on x86, one for ports. vCPU threads look addresses up here at every exit.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use vmm_sys_util::eventfd::EventFd;

/// A device with registers. It locks itself: several vCPUs may access it at once.
pub trait BusDevice: Send + Sync {
    /// Fills `data` from `offset` into the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset` into the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Addresses in memory space at which a guest's write signals an eventfd in the kernel, without the
/// vmm (KVM ioeventfds). Called on vCPU threads with a device's locks held.
pub trait Doorbells: Send + Sync {
    /// Makes a write of any width and value at `address` signal `kick`.
    fn register(&self, address: u64, kick: &EventFd) -> io::Result<()>;
    /// Undoes `register`. It may take milliseconds, so devices only call it when their registers
    /// move.
    fn unregister(&self, address: u64, kick: &EventFd) -> io::Result<()>;
}

/// Why a device cannot get a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// It overlaps another device's range.
    #[error("{len:#x} bytes at {base:#x} overlap another device")]
    Overlap {
        /// Its first address.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// It is empty, or runs past the end of the address space.
    #[error("{len:#x} bytes at {base:#x} are no range")]
    Range {
        /// Its first address.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
}

struct Entry {
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// The devices, by first address.
#[derive(Default)]
pub struct Bus {
    entries: RwLock<BTreeMap<u64, Entry>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list()
            .entries(entries.iter().map(|(base, e)| (base, e.len)))
            .finish()
    }
}

impl Bus {
    /// Assigns `len` bytes from `base` to a device.
    pub fn insert(&self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let last = match len.checked_sub(1).and_then(|more| base.checked_add(more)) {
            Some(last) => last,
            None => return Err(BusError::Range { base, len }),
        };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Only the last entry that begins at or before `last` can reach `base`.
        if let Some((other, entry)) = entries.range(..=last).next_back()
            && other + (entry.len - 1) >= base
        {
            return Err(BusError::Overlap { base, len });
        }
        entries.insert(base, Entry { len, device });
        Ok(())
    }

    /// Removes the range that begins at `base`.
    pub fn remove(&self, base: u64) -> Option<Arc<dyn BusDevice>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&base).map(|entry| entry.device)
    }

    /// The device whose range holds all of `len` bytes at `address`, and the offset in it.
    fn find(&self, address: u64, len: usize) -> Option<(Arc<dyn BusDevice>, u64)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (base, entry) = entries.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(len as u64)?;
        (end <= entry.len).then(|| (Arc::clone(&entry.device), offset))
    }

    /// A guest's read. Without a device, all bits read as one.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A guest's write. Without a device, it is ignored.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as its own offset.
    struct Echo;
    impl BusDevice for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    fn read(bus: &Bus, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn access_inside_a_range_reaches_its_device() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Echo)).unwrap();
        assert_eq!(read(&bus, 0x1004, 1), [4]);
        assert_eq!(read(&bus, 0x100c, 4), [0xc; 4]);
    }

    #[test]
    fn access_outside_or_across_the_end_reads_ones() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Echo)).unwrap();
        for (address, len) in [(0xfff, 1), (0x1010, 1), (0x100e, 4), (u64::MAX, 8)] {
            assert_eq!(read(&bus, address, len), vec![0xff; len]);
        }
    }

    #[test]
    fn range_that_overlaps_in_any_way_is_refused() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Echo)).unwrap();
        for (base, len) in [
            (0x1000, 0x10),
            (0xfff, 2),
            (0x100f, 1),
            (0, 0x2000),
            (0x1004, 4),
        ] {
            let refused = bus.insert(base, len, Arc::new(Echo));
            assert_eq!(refused, Err(BusError::Overlap { base, len }));
        }
        bus.insert(0xff0, 0x10, Arc::new(Echo)).unwrap();
        bus.insert(0x1010, 0x10, Arc::new(Echo)).unwrap();
    }

    #[test]
    fn range_empty_or_past_the_end_is_refused() {
        let bus = Bus::default();
        assert!(matches!(
            bus.insert(0, 0, Arc::new(Echo)),
            Err(BusError::Range { .. })
        ));
        assert!(matches!(
            bus.insert(u64::MAX, 2, Arc::new(Echo)),
            Err(BusError::Range { .. })
        ));
        bus.insert(u64::MAX, 1, Arc::new(Echo)).unwrap();
    }

    #[test]
    fn range_removed_reads_ones_again() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Echo)).unwrap();
        assert!(bus.remove(0x1000).is_some());
        assert_eq!(read(&bus, 0x1000, 1), [0xff]);
    }
}
