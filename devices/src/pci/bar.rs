// SPDX-License-Identifier: Apache-2.0
//! Base address registers (PCI local bus 3.0 §6.2.5) and the address windows for them.

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

/// The number of BAR registers of a type 0 header.
pub const BAR_COUNT: usize = 6;

/// The type and length of a BAR. Lengths are powers of two, at least 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bar {
    /// Non-prefetchable memory below 4 GiB.
    Memory32 {
        /// Length in bytes.
        len: u32,
    },
    /// Non-prefetchable memory anywhere.
    Memory64 {
        /// Length in bytes.
        len: u64,
    },
}

impl Bar {
    /// The length of its BAR registers in bytes.
    pub fn register_bytes(self) -> usize {
        match self {
            Self::Memory32 { .. } => 4,
            Self::Memory64 { .. } => 8,
        }
    }

    /// The length in bytes.
    pub fn len_bytes(self) -> u64 {
        match self {
            Self::Memory32 { len } => u64::from(len),
            Self::Memory64 { len } => len,
        }
    }

    /// The writable address bits.
    pub(super) fn mask(self) -> u64 {
        let bits = match self {
            Self::Memory32 { .. } => 0xffff_ffff,
            Self::Memory64 { .. } => u64::MAX,
        };
        bits & !(self.len_bytes().max(16) - 1)
    }

    /// The read-only low bits.
    pub(super) fn flags(self) -> u64 {
        match self {
            Self::Memory32 { .. } => 0,
            Self::Memory64 { .. } => 4,
        }
    }
}

/// No window has space for a BAR.
#[derive(Debug, thiserror::Error)]
#[error("no room for a BAR of {len:#x} bytes")]
pub struct NoWindow {
    len: u64,
    #[source]
    source: vm_allocator::Error,
}

/// The address windows for BARs.
#[derive(Debug)]
pub struct Windows {
    below_4g: AddressAllocator,
    above_4g: AddressAllocator,
}

impl Windows {
    /// The windows below and above 4 GiB: first address and length in bytes of each.
    pub fn new(below_4g: (u64, u64), above_4g: (u64, u64)) -> Result<Self, vm_allocator::Error> {
        Ok(Self {
            below_4g: AddressAllocator::new(below_4g.0, below_4g.1)?,
            above_4g: AddressAllocator::new(above_4g.0, above_4g.1)?,
        })
    }

    /// Allocates an address for a BAR, aligned to its length.
    pub fn place(&mut self, bar: Bar) -> Result<u64, NoWindow> {
        let window = match bar {
            Bar::Memory32 { .. } => &mut self.below_4g,
            Bar::Memory64 { .. } => &mut self.above_4g,
        };
        let len = bar.len_bytes();
        let placed = window.allocate(len, len, AllocPolicy::FirstMatch);
        placed
            .map(|r: RangeInclusive| r.start())
            .map_err(|source| NoWindow { len, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Windows {
        Windows::new((0xc000_0000, 0x10_0000), (1 << 40, 1 << 30)).unwrap()
    }

    #[test]
    fn bars_are_placed_aligned_and_apart_in_their_window() {
        let mut windows = windows();
        let small = windows.place(Bar::Memory64 { len: 0x1000 }).unwrap();
        let large = windows.place(Bar::Memory64 { len: 0x8000 }).unwrap();
        assert_eq!((small, large), (1 << 40, (1 << 40) + 0x8000));
        let low = windows.place(Bar::Memory32 { len: 0x4000 }).unwrap();
        assert_eq!(low, 0xc000_0000);
    }

    #[test]
    fn bar_larger_than_what_is_left_is_refused() {
        let mut windows = windows();
        windows.place(Bar::Memory32 { len: 0x8_0000 }).unwrap();
        windows.place(Bar::Memory32 { len: 0x1000 }).unwrap();
        assert!(windows.place(Bar::Memory32 { len: 0x8_0000 }).is_err());
    }
}
