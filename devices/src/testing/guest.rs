// SPDX-License-Identifier: Apache-2.0
//! A function on a bus, and what a driver does to it.

use std::sync::Arc;

use super::Wires;
use crate::bus::Bus;
use crate::pci::bar::Windows;
use crate::pci::root::PciFunction;
use crate::virtio::device::VirtioDevice;
use crate::virtio::transport::pci::function::{PciContext, VirtioPci};
use crate::virtio::transport::pci::intx::Intx;

/// Where the first function's registers are.
pub const BASE: u64 = 1 << 40;
/// How much room a function's registers take.
pub const BAR_LEN: u64 = 0x1_0000;
/// The command register in configuration space.
pub const COMMAND: usize = 4;

const MSIX_TABLE: u64 = 0x8000;
const MSIX_PBA: u64 = 0xc000;

mod status {
    pub(super) const ACKNOWLEDGE: u8 = 1;
    pub(super) const DRIVER: u8 = 2;
    pub(super) const FEATURES_OK: u8 = 8;
}

/// Room for the BARs of a few functions.
pub fn windows() -> Windows {
    Windows::new((0xc000_0000, 0x10_0000), (BASE, 1 << 30)).unwrap()
}

/// A function with a device behind it.
#[derive(Debug)]
pub struct Guest<D> {
    /// The host.
    pub wires: Arc<Wires>,
    /// The device.
    pub device: Arc<D>,
    /// The function.
    pub function: Arc<VirtioPci>,
    /// The bus that its registers are on.
    pub memory: Arc<Bus>,
    /// Where they are.
    pub base: u64,
}

impl<D: VirtioDevice + 'static> Guest<D> {
    /// As after power-on, the first function of its bus.
    pub fn new(device: Arc<D>) -> Self {
        Self::on(&Arc::default(), &mut windows(), BASE, device)
    }

    /// As after power-on, on this bus; its registers are to be at `base`.
    pub fn on(memory: &Arc<Bus>, windows: &mut Windows, base: u64, device: Arc<D>) -> Self {
        let wires = Arc::<Wires>::default();
        let context = PciContext {
            memory_space: Arc::clone(memory),
            doorbells: Arc::clone(&wires) as _,
            vectors: Arc::clone(&wires) as _,
            intx: Some(Intx {
                line: Arc::clone(&wires) as _,
                watcher: Arc::clone(&wires) as _,
            }),
        };
        let function = VirtioPci::new(Arc::clone(&device) as _, context, windows).unwrap();
        Self {
            wires,
            device,
            function: Arc::new(function),
            memory: Arc::clone(memory),
            base,
        }
    }

    /// Switches memory space, bus mastering and MSI-X on, with vector i unmasked and data 0x40 + i.
    pub fn enable(&self) {
        self.config_write(COMMAND, &[6, 0]);
        for vector in 0..3_u32 {
            self.program(vector, 0x40 + vector);
            self.mask(vector, false);
        }
        self.config_write(self.msix() + 2, &[0, 0x80]);
    }

    /// From there to DRIVER_OK, with two queues of this size: queue 0 on vector 1, queue 1 on
    /// vector 2, configuration on vector 0.
    pub fn start(&self, features: u64, queue_size: u16) {
        self.negotiate(features);
        self.write16(16, 0);
        self.set_up_queue(0, queue_size, 1);
        self.set_up_queue(1, queue_size, 2);
        self.write8(20, 0xf);
    }

    /// Accepts `features`, as far as FEATURES_OK.
    pub fn negotiate(&self, features: u64) {
        self.write8(20, status::ACKNOWLEDGE);
        self.write8(20, status::ACKNOWLEDGE | status::DRIVER);
        for select in [0_u32, 1] {
            self.write32(8, select);
            self.write32(12, (features >> (32 * select)) as u32);
        }
        self.write8(
            20,
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
        );
    }

    /// Sets up and enables a queue on a vector; its three parts are a page apart, the first at
    /// [`Self::ring`].
    pub fn set_up_queue(&self, index: u16, size: u16, vector: u16) {
        self.write16(22, index);
        self.write16(24, size);
        self.write16(26, vector);
        let at = Self::ring(index);
        for (field, address) in [(32, at), (40, at + 0x1000), (48, at + 0x2000)] {
            self.write(field, &address.to_le_bytes());
        }
        self.write16(28, 1);
    }

    /// Where a queue begins in memory.
    pub fn ring(index: u16) -> u64 {
        0x10_0000 * (u64::from(index) + 1)
    }

    /// Reads configuration space.
    pub fn config_read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.function.config_read(offset, &mut data);
        data
    }
    /// Writes configuration space.
    pub fn config_write(&self, offset: usize, data: &[u8]) {
        self.function.config_write(offset, data);
    }

    /// The capabilities: offset and id of each.
    pub fn capabilities(&self) -> Vec<(usize, u8)> {
        let mut found = Vec::new();
        let mut at = usize::from(self.config_read(0x34, 1)[0]);
        while at != 0 {
            found.push((at, self.config_read(at, 1)[0]));
            at = usize::from(self.config_read(at + 1, 1)[0]);
        }
        found
    }
    /// Where the MSI-X capability is.
    pub fn msix(&self) -> usize {
        self.capabilities()
            .iter()
            .find(|(_, id)| *id == 0x11)
            .unwrap()
            .0
    }
    /// Body of the vendor capability of this `cfg_type`: offset in configuration space.
    pub fn vendor(&self, cfg_type: u8) -> usize {
        let of_type =
            |&&(at, id): &&(usize, u8)| id == 9 && self.config_read(at + 3, 1)[0] == cfg_type;
        self.capabilities().iter().find(of_type).unwrap().0
    }

    /// Reads a register of BAR 0.
    pub fn read(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.memory.read(self.base + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }
    /// Writes a register of BAR 0.
    pub fn write(&self, offset: u64, data: &[u8]) {
        self.memory.write(self.base + offset, data);
    }
    /// Writes a register of 8 bits.
    pub fn write8(&self, offset: u64, value: u8) {
        self.write(offset, &[value]);
    }
    /// Writes a register of 16 bits.
    pub fn write16(&self, offset: u64, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }
    /// Writes a register of 32 bits.
    pub fn write32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    /// The device status.
    pub fn status(&self) -> u8 {
        self.read(20, 1) as u8
    }

    /// Gives a vector its message.
    pub fn program(&self, vector: u32, data: u32) {
        let entry = MSIX_TABLE + 16 * u64::from(vector);
        self.write32(entry, 0xfee0_0000);
        self.write32(entry + 4, 0);
        self.write32(entry + 8, data);
    }
    /// Masks a vector, or unmasks it.
    pub fn mask(&self, vector: u32, masked: bool) {
        let entry = MSIX_TABLE + 16 * u64::from(vector);
        self.write32(entry + 12, u32::from(masked));
    }
    /// The pending bits.
    pub fn pending(&self) -> u64 {
        self.read(MSIX_PBA, 8)
    }
}
