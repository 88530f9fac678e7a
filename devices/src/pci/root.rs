// SPDX-License-Identifier: Apache-2.0
//! The PCI root bus, and the two ways to configuration space: ECAM (PCI Express base 5.0 §7.2.2),
//! one MiB of memory per bus, and the ports 0xcf8 and 0xcfc (PCI local bus 3.0 §3.2.2.3.2).

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::bus::BusDevice;

/// The number of devices of a bus.
pub const DEVICES: usize = 32;
/// The highest number of a bus that configuration space has room for. There is only bus 0 so far.
pub const LAST_BUS: u8 = 255;
/// The length of the ECAM window in bytes.
pub const ECAM_LEN_BYTES: u64 = (LAST_BUS as u64 + 1) << 20;
/// The first port of the port mechanism.
pub const CONFIG_PORT: u64 = 0xcf8;
/// The number of its ports: address and data.
pub const CONFIG_PORTS: u64 = 8;

/// A function on the bus. It locks itself.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space; accesses do not cross a 4-byte boundary.
    fn config_read(&self, offset: usize, data: &mut [u8]);
    /// Writes configuration space; accesses do not cross a 4-byte boundary.
    fn config_write(&self, offset: usize, data: &[u8]);
}

/// The place of a device on the bus: its device number, below [`DEVICES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    /// The slot of the host bridge.
    pub const HOST_BRIDGE: Self = Self(0);

    /// Slot `number`, if the bus has it.
    pub fn new(number: u8) -> Option<Self> {
        (usize::from(number) < DEVICES).then_some(Self(number))
    }

    /// The device number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The requester id of the device's messages: bus 0, the device number, function 0.
    pub fn requester_id(self) -> u16 {
        u16::from(self.0) << 3
    }
}

/// Two devices claim the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("PCI device number {} is taken", .0.0)]
pub struct SlotTaken(pub Slot);

/// The bus: functions by device number. Devices come and go while vCPUs access it.
#[derive(Default)]
pub struct PciRoot {
    slots: RwLock<[Option<Arc<dyn PciFunction>>; DEVICES]>,
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("PciRoot")
            .field("devices", &slots.iter().flatten().count())
            .finish()
    }
}

impl PciRoot {
    /// Puts a function into a free slot.
    pub fn insert(&self, slot: Slot, function: Arc<dyn PciFunction>) -> Result<(), SlotTaken> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        match &mut slots[usize::from(slot.0)] {
            Some(_) => Err(SlotTaken(slot)),
            free => {
                *free = Some(function);
                Ok(())
            }
        }
    }

    /// Empties a slot; returns what was in it.
    pub fn remove(&self, slot: Slot) -> Option<Arc<dyn PciFunction>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots[usize::from(slot.0)].take()
    }

    /// The function with the bus, device and function number `bdf`, encoded as in configuration
    /// addresses.
    fn function(&self, bdf: usize) -> Option<Arc<dyn PciFunction>> {
        let (device, function) = (bdf >> 3, bdf & 7);
        if function != 0 {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(device)?.clone()
    }

    fn read(&self, bdf: usize, offset: usize, data: &mut [u8]) {
        match self.function(bdf) {
            Some(function) if fits(offset, data.len()) => function.config_read(offset, data),
            // "must return all 1's" where there is no function (PCI local bus 3.0 §6.1)
            _ => data.fill(0xff),
        }
    }

    fn write(&self, bdf: usize, offset: usize, data: &[u8]) {
        if let Some(function) = self.function(bdf)
            && fits(offset, data.len())
        {
            function.config_write(offset, data);
        }
    }
}

/// Whether an access stays within an aligned 4-byte word.
fn fits(offset: usize, len: usize) -> bool {
    (1..=4).contains(&len) && offset % 4 + len <= 4
}

/// The ECAM window in memory space.
#[derive(Debug)]
pub struct Ecam(pub Arc<PciRoot>);

/// The bus, device and function number, and the offset in the function's 4 KiB.
fn ecam_address(offset: u64) -> (usize, usize) {
    let bdf = usize::try_from(offset >> 12).unwrap_or(usize::MAX);
    (bdf, (offset & 0xfff) as usize)
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (bdf, register) = ecam_address(offset);
        self.0.read(bdf, register, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (bdf, register) = ecam_address(offset);
        self.0.write(bdf, register, data);
    }
}

/// The ports 0xcf8 and 0xcfc.
#[derive(Debug)]
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: AtomicU32,
}

impl ConfigPorts {
    const ENABLE: u32 = 1 << 31;
    const DATA: u64 = 4;

    /// The ports of `root`.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self {
            root,
            address: AtomicU32::new(0),
        }
    }

    /// What the address port holds.
    pub fn save(&self) -> u32 {
        self.address.load(Ordering::Relaxed)
    }

    /// Sets what the address port holds.
    pub fn restore(&self, address: u32) {
        self.address.store(address, Ordering::Relaxed);
    }

    /// The register that the data port accesses, if the address port enables it.
    fn target(&self, offset: u64) -> Option<(usize, usize)> {
        let address = self.address.load(Ordering::Relaxed);
        let register = (address & 0xfc) as usize + usize::try_from(offset - Self::DATA).ok()?;
        let bdf = ((address >> 8) & 0xffff) as usize;
        (address & Self::ENABLE != 0).then_some((bdf, register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset >= Self::DATA {
            if let Some((bdf, register)) = self.target(offset) {
                self.root.read(bdf, register, data);
            }
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= Self::DATA {
            if let Some((bdf, register)) = self.target(offset) {
                self.root.write(bdf, register, data);
            }
        } else if let (0, Ok(address)) = (offset, data.try_into().map(u32::from_le_bytes)) {
            self.address.store(address, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::host_bridge::HostBridge;

    const BRIDGE: [u8; 4] = [0x36, 0x1b, 0x08, 0x00];

    fn root() -> Arc<PciRoot> {
        let root = PciRoot::default();
        let bridge = Arc::new(HostBridge::default());
        root.insert(Slot::HOST_BRIDGE, bridge).unwrap();
        Arc::new(root)
    }

    fn read(device: &dyn BusDevice, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        device.read(offset, &mut data);
        data
    }

    #[test]
    fn ecam_reads_the_function_it_addresses_and_ones_elsewhere() {
        let ecam = Ecam(root());
        assert_eq!(read(&ecam, 0, 4), BRIDGE);
        assert_eq!(read(&ecam, 2, 2), BRIDGE[2..]);
        for absent in [1 << 12, 1 << 15, 1 << 19, 1 << 20, 255 << 20] {
            assert_eq!(read(&ecam, absent, 4), [0xff; 4]);
        }
    }

    #[test]
    fn ports_read_the_function_only_while_enabled() {
        let ports = ConfigPorts::new(root());
        assert_eq!(read(&ports, 4, 4), [0xff; 4]);
        ports.write(0, &0x8000_0000_u32.to_le_bytes());
        assert_eq!(read(&ports, 0, 4), 0x8000_0000_u32.to_le_bytes());
        assert_eq!(read(&ports, 4, 4), BRIDGE);
        assert_eq!(read(&ports, 6, 2), BRIDGE[2..]);
        ports.write(0, &0x8000_0800_u32.to_le_bytes());
        assert_eq!(read(&ports, 4, 4), [0xff; 4]);
    }

    #[test]
    fn access_across_a_dword_or_of_odd_width_does_no_harm() {
        let (ecam, ports) = (Ecam(root()), ConfigPorts::new(root()));
        ports.write(0, &0x8000_00fc_u32.to_le_bytes());
        for offset in 0..16 {
            for len in 0..=16 {
                for device in [&ecam as &dyn BusDevice, &ports] {
                    device.write(offset, &vec![0x5a; len]);
                    device.read(offset, &mut vec![0; len]);
                }
            }
        }
        assert_eq!(read(&ecam, 2, 4), [0xff; 4]);
    }

    #[test]
    fn slot_holds_one_device_until_it_is_removed() {
        let (root, ecam) = (root(), Ecam(root()));
        let slot = Slot::new(31).unwrap();
        let bridge = || Arc::new(HostBridge::default());
        assert_eq!(root.insert(slot, bridge()), Ok(()));
        assert_eq!(root.insert(slot, bridge()), Err(SlotTaken(slot)));
        assert!(root.remove(slot).is_some() && root.remove(slot).is_none());
        assert_eq!(root.insert(slot, bridge()), Ok(()));

        ecam.0.insert(slot, bridge()).unwrap();
        assert_eq!(read(&ecam, 31 << 15, 4), BRIDGE);
        ecam.0.remove(slot);
        assert_eq!(read(&ecam, 31 << 15, 4), [0xff; 4]);
    }

    #[test]
    fn slot_beyond_the_bus_does_not_exist() {
        assert_eq!(Slot::new(32), None);
        assert_eq!(Slot::new(5).map(Slot::requester_id), Some(0x28));
    }
}
