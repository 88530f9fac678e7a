// SPDX-License-Identifier: Apache-2.0
//! Two virtio functions, an IOAPIC, ECAM and the configuration ports on their buses, and a guest that
//! does anything: every register, any width, BARs onto each other.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use devices::bus::Bus;
use devices::ioapic::{self, IoApic};
use devices::pci::host_bridge::HostBridge;
use devices::pci::root::{
    CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_LEN_BYTES, Ecam, PciFunction, PciRoot, Slot,
};
use devices::testing::{BAR_LEN, BASE, FakeDevice, Guest, OFFERED, QUEUE_SIZES, windows};
use devices::virtio::device::QueueIndex;

use super::ioapic::Apics;
use crate::script::Script;

const ECAM: u64 = 0xd000_0000;
const IOAPIC: u64 = 0xfec0_0000;
const STEPS_MAX: usize = 400;

struct World {
    memory: Arc<Bus>,
    ports: Bus,
    cards: [Guest<FakeDevice>; 2],
}

pub(crate) fn run(data: &[u8]) {
    let world = World::new();
    let mut script = Script::new(data);
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        world.step(step, &mut script);
    }
    for card in &world.cards {
        let doorbells = card.wires.doorbells();
        assert!(doorbells.len() <= QUEUE_SIZES.len());
        let mut bar = [0; 8];
        card.function.config_read(0x10, &mut bar[..4]);
        card.function.config_read(0x14, &mut bar[4..]);
        let base = u64::from_le_bytes(bar) & !(BAR_LEN - 1);
        let inside = |at: &u64| at.wrapping_sub(base) < BAR_LEN;
        assert!(doorbells.iter().all(inside), "{doorbells:x?} at {base:x}");
    }
}

impl Drop for World {
    /// The bus leads to ECAM, to the functions, to the bus: in the vmm that lives as long as the
    /// process.
    fn drop(&mut self) {
        self.memory.remove(ECAM);
    }
}

impl World {
    fn new() -> Self {
        let (memory, ports) = (Arc::<Bus>::default(), Bus::default());
        let controller = Arc::new(IoApic::new(Arc::<Apics>::default()));
        memory
            .insert(IOAPIC, ioapic::LEN_BYTES, controller)
            .unwrap();
        let mut windows = windows();
        let cards = [BASE, BASE + BAR_LEN].map(|base| {
            let device = FakeDevice::default();
            device.config.store(0x0706_0504_0302_0100, SeqCst);
            Guest::on(&memory, &mut windows, base, Arc::new(device))
        });
        let root = Arc::new(PciRoot::default());
        let bridge = Arc::new(HostBridge::default());
        root.insert(Slot::HOST_BRIDGE, bridge).unwrap();
        for (number, card) in (1..).zip(&cards) {
            let slot = Slot::new(number).unwrap();
            root.insert(slot, Arc::clone(&card.function) as _).unwrap();
        }
        let ecam = Arc::new(Ecam(Arc::clone(&root)));
        memory.insert(ECAM, ECAM_LEN_BYTES, ecam).unwrap();
        let config = Arc::new(ConfigPorts::new(root));
        ports.insert(CONFIG_PORT, CONFIG_PORTS, config).unwrap();
        Self {
            memory,
            ports,
            cards,
        }
    }

    fn step(&self, step: u8, script: &mut Script<'_>) {
        let which = usize::from(step >> 7);
        let card = &self.cards[which];
        match step & 0x7f {
            0..0x40 => {
                let (address, mut access) = (self.address(script), script.access());
                if step & 1 == 0 {
                    self.memory.write(address, access.data());
                } else {
                    self.memory.read(address, access.room());
                }
            }
            0x40..0x50 => {
                let port = CONFIG_PORT + u64::from(script.u8() % 12);
                let mut access = script.access();
                if step & 1 == 0 {
                    self.ports.write(port, access.data());
                } else {
                    self.ports.read(port, access.room());
                }
            }
            0x50..0x58 => {
                card.device.active(|activation| {
                    let queue = usize::from(script.u8());
                    if let Some(queue) = activation.queues.get(queue % QUEUE_SIZES.len()) {
                        card.wires.call(&queue.events.call);
                    }
                });
            }
            0x58..0x60 => {
                let signals = card.device.active(|a| Arc::clone(&a.signals));
                if let Some(signals) = signals {
                    match script.u8() % 3 {
                        0 => signals.needs_reset(),
                        1 => signals.config_changed(),
                        _ => signals.used_buffers(QueueIndex(script.u16())),
                    }
                }
            }
            0x60..0x68 => card.device.drains_slowly.store(script.flag(), SeqCst),
            0x68..0x70 => card.device.finish_reset(),
            _ => {
                card.enable();
                card.start(OFFERED, 64);
            }
        }
    }

    /// Somewhere interesting, mostly.
    fn address(&self, script: &mut Script<'_>) -> u64 {
        match script.u8() {
            0..0x60 => BASE + u64::from(script.u8()),
            0x60..0x90 => BASE + u64::from(script.u16()),
            0x90..0xa0 => BASE + BAR_LEN + u64::from(script.u16()),
            0xa0..0xd0 => ECAM + (1 << 15) + u64::from(script.u8()),
            0xd0..0xe0 => ECAM + u64::from(script.u32() & 0xf_ffff),
            0xe0..0xf0 => IOAPIC + u64::from(script.u8()),
            _ => script.u64(),
        }
    }
}
