// SPDX-License-Identifier: Apache-2.0
//! One function's configuration space (PCI local bus 3.0 §6.1): a type 0 header, BARs and
//! capabilities. Bits are read-only unless made writable.

use serde::{Deserialize, Serialize};

use crate::pci::bar::{BAR_COUNT, Bar};
use crate::state::{StateError, check_count};

/// The length of the header and capabilities in bytes. The rest (up to the 4 KiB of ECAM) reads as
/// zero, which means that there are no extended capabilities.
pub const LEN_BYTES: usize = 256;

const VENDOR_ID: usize = 0x00;
const DEVICE_ID: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION_ID: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE_SIZE: usize = 0x0c;
const BARS: usize = 0x10;
const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
const SUBSYSTEM_ID: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// The pin INTA#.
const PIN_A: u8 = 1;
const FIRST_CAPABILITY: usize = 0x40;

const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// The bits of the command register that a driver may set.
pub mod command {
    /// Respond in memory space.
    pub const MEMORY: u16 = 1 << 1;
    /// Access memory and send MSIs.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Disable INTx.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// The identification registers of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor_id: u16,
    /// Device ID.
    pub device_id: u16,
    /// Revision ID.
    pub revision_id: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor_id: u16,
    /// Subsystem ID.
    pub subsystem_id: u16,
}

/// The capability list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for a PCI capability of {0} bytes")]
pub struct NoRoom(pub usize);

/// What a driver has written to configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState(Vec<u8>);

/// A function's configuration space.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; LEN_BYTES],
    writable: [u8; LEN_BYTES],
    bars: [Option<Bar>; BAR_COUNT],
    last_capability: usize,
    free: usize,
}

impl ConfigSpace {
    /// A type 0 header without BARs or capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; LEN_BYTES],
            writable: [0; LEN_BYTES],
            bars: [None; BAR_COUNT],
            last_capability: CAPABILITIES,
            free: FIRST_CAPABILITY,
        };
        let [base, sub, interface] = identity.class;
        space.set(VENDOR_ID, &identity.vendor_id.to_le_bytes());
        space.set(DEVICE_ID, &identity.device_id.to_le_bytes());
        space.set(REVISION_ID, &[identity.revision_id]);
        space.set(CLASS, &[interface, sub, base]);
        space.set(
            SUBSYSTEM_VENDOR_ID,
            &identity.subsystem_vendor_id.to_le_bytes(),
        );
        space.set(SUBSYSTEM_ID, &identity.subsystem_id.to_le_bytes());
        let driver = command::MEMORY | command::BUS_MASTER | command::INTX_DISABLE;
        space.make_writable(COMMAND, &driver.to_le_bytes());
        space.make_writable(CACHE_LINE_SIZE, &[0xff]);
        space.make_writable(INTERRUPT_LINE, &[0xff]);
        space
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    fn make_writable(&mut self, offset: usize, mask: &[u8]) {
        for (writable, mask) in self.writable[offset..].iter_mut().zip(mask) {
            *writable |= mask;
        }
    }

    fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from(self.u16_at(offset)) | u32::from(self.u16_at(offset + 2)) << 16
    }

    /// Adds a BAR at `address`. A 64-bit BAR takes register `index` and the next one.
    pub fn add_bar(&mut self, index: usize, bar: Bar, address: u64) {
        let offset = BARS + 4 * index;
        let (mask, value) = (bar.mask(), bar.flags() | address & bar.mask());
        let len = bar.register_bytes();
        self.set(offset, &value.to_le_bytes()[..len]);
        self.make_writable(offset, &mask.to_le_bytes()[..len]);
        self.bars[index] = Some(bar);
    }

    /// Tells the driver that the function has an interrupt line.
    pub fn set_interrupt_pin(&mut self) {
        self.set(INTERRUPT_PIN, &[PIN_A]);
    }

    /// Shows whether the function asks for an interrupt by its line, enabled or not (PCI local bus 3.0
    /// §6.2.3).
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = self.bytes[STATUS];
        self.bytes[STATUS] = match pending {
            true => status | STATUS_INTERRUPT,
            false => status & !STATUS_INTERRUPT,
        };
    }

    /// The current address of BAR `index`; `None` if it does not exist or the driver has disabled
    /// memory space.
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        let bar = self.bars.get(index).copied().flatten()?;
        let offset = BARS + 4 * index;
        let low = u64::from(self.u32_at(offset));
        let high = if bar.register_bytes() == 8 {
            u64::from(self.u32_at(offset + 4))
        } else {
            0
        };
        (self.command() & command::MEMORY != 0).then_some((low | high << 32) & bar.mask())
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.u16_at(COMMAND)
    }

    /// Appends a capability: its id, its body after id and next pointer, and a mask of the body's
    /// bits that a driver may write. Returns the capability's offset.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<usize, NoRoom> {
        let (offset, len) = (self.free, body.len() + 2);
        let end = (offset + len).next_multiple_of(4);
        let Some(pointer) = u8::try_from(offset).ok().filter(|_| end <= LEN_BYTES) else {
            return Err(NoRoom(len));
        };
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.make_writable(offset + 2, &writable[..writable.len().min(body.len())]);
        let link = if self.last_capability == CAPABILITIES {
            CAPABILITIES
        } else {
            self.last_capability + 1
        };
        self.set(link, &[pointer]);
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        (self.last_capability, self.free) = (offset, end);
        Ok(offset)
    }

    /// What a driver has written.
    pub fn save(&self) -> ConfigState {
        ConfigState(self.bytes.to_vec())
    }

    /// Sets what a driver can write; the rest is as the function was made.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), StateError> {
        check_count("bytes of configuration space", state.0.len(), LEN_BYTES)?;
        self.write(0, &state.0);
        Ok(())
    }

    /// A driver's read; bytes beyond the header and capabilities are zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (i, value) in data.iter_mut().enumerate() {
            *value = self
                .bytes
                .get(offset.saturating_add(i))
                .copied()
                .unwrap_or(0);
        }
    }

    /// A driver's write; read-only bits do not change.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (i, value) in data.iter().enumerate() {
            let at = offset.saturating_add(i);
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor_id: 0x1af4,
            device_id: 0x1042,
            revision_id: 1,
            class: [1, 0, 0],
            subsystem_vendor_id: 0x1af4,
            subsystem_id: 2,
        })
    }

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn header_identifies_the_function_and_is_read_only() {
        let mut space = space();
        let before: Vec<u32> = (0..64).map(|i| read32(&space, 4 * i)).collect();
        assert_eq!(
            (before[0], before[2], before[11]),
            (0x1042_1af4, 0x0100_0001, 0x0002_1af4)
        );
        space.write(0, &[0xff; LEN_BYTES]);
        let changed: Vec<usize> = (0..64)
            .filter(|&i| read32(&space, 4 * i) != before[i])
            .collect();
        assert_eq!(changed, [1, 3, 15]); // command, cache line size, interrupt line
        assert_eq!(read32(&space, COMMAND), 0x0406);
    }

    #[test]
    fn bar_of_64_bits_is_sized_and_moved_as_the_specification_says() {
        let mut space = space();
        space.add_bar(0, Bar::Memory64 { len: 0x8000 }, 0x12_3456_8000);
        assert_eq!(space.bar_address(0), None);
        space.write(COMMAND, &[2, 0]);
        assert_eq!(space.bar_address(0), Some(0x12_3456_8000));
        space.write(BARS, &[0xff; 8]);
        assert_eq!(
            (read32(&space, BARS), read32(&space, BARS + 4)),
            (0xffff_8004, 0xffff_ffff)
        );
        space.write(BARS, &0x20_0001_2345_u64.to_le_bytes());
        assert_eq!(space.bar_address(0), Some(0x20_0001_0000));
    }

    #[test]
    fn bar_absent_reads_zero_whatever_is_written() {
        let mut space = space();
        space.add_bar(0, Bar::Memory32 { len: 0x1000 }, 0xc000_0000);
        space.write(BARS, &[0xff; 24]);
        assert_eq!(
            (read32(&space, BARS), read32(&space, BARS + 4)),
            (0xffff_f000, 0)
        );
        assert_eq!(space.bar_address(1), None);
        assert_eq!(space.bar_address(99), None);
    }

    #[test]
    fn capabilities_are_linked_aligned_and_writable_only_where_allowed() {
        let mut space = space();
        let first = space.add_capability(9, &[1, 2, 3], &[]).unwrap();
        let second = space.add_capability(0x11, &[0, 0], &[0, 0xc0]).unwrap();
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(read32(&space, CAPABILITIES), 0x40);
        assert_eq!(read32(&space, STATUS) & 0x10, 0x10);
        space.write(first, &[0xff; 16]);
        assert_eq!(
            (read32(&space, first), read32(&space, second)),
            (0x0201_4809, 0xc000_0011)
        );
    }

    #[test]
    fn capability_that_does_not_fit_is_refused() {
        let mut space = space();
        assert_eq!(space.add_capability(9, &[0; 200], &[]), Err(NoRoom(202)));
        space.add_capability(9, &[0; 190], &[]).unwrap();
        assert_eq!(space.add_capability(9, &[0; 1], &[]), Err(NoRoom(3)));
    }

    #[test]
    fn access_beyond_the_end_reads_zero_and_writes_nothing() {
        let mut space = space();
        space.write(254, &[0xff; 8]);
        space.write(usize::MAX, &[0xff; 8]);
        let mut data = [0xaa; 4];
        space.read(4092, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
