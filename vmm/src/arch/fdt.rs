// SPDX-License-Identifier: Apache-2.0
//! The nodes of a device tree (Devicetree Specification 0.4) that every architecture described by one
//! has. The architecture adds its processors and its interrupt controllers.

use devices::pci::root::{ECAM_LEN_BYTES, LAST_BUS};
use ipc::slot::DeviceSlot;
use vm_fdt::{Error, FdtWriter};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::boot::{Initrd, random};
use crate::machine::MachineDesc;
use crate::memory::{GuestMemory, Region};

/// The node that the wired interrupts of devices go to. The root does not name it for all: the harts'
/// own interrupt controllers have no parent.
pub(super) const INTERRUPT_CONTROLLER: u32 = 1;
/// The node that takes the messages of PCI devices.
pub(super) const MSI_CONTROLLER: u32 = 2;

/// The frequency of the serial port's clock: that of a PC's, of which 115200 baud is a fraction.
const UART_HZ: u32 = 1_843_200;
const BAUD: u32 = 115_200;

/// A device with registers in memory space, and one wired interrupt.
pub(super) struct Wired<'a> {
    /// Where its registers are.
    pub(super) registers: Region,
    /// The interrupt, as the interrupt controller's node defines.
    pub(super) interrupt: &'a [u32],
}

/// What a kernel is told besides the hardware.
pub(super) struct Chosen<'a> {
    /// The kernel command line.
    pub(super) cmdline: &'a str,
    /// The initrd.
    pub(super) initrd: Option<Initrd>,
    /// The serial port.
    pub(super) uart: Region,
    /// Random bytes for the kernel's generator, and for the place of its code, if this host has any.
    pub(super) seed: Option<Seed>,
}

/// Random bytes.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    /// For the generator.
    pub(super) rng: [u8; 64],
    /// For the place of the kernel's code.
    pub(super) kaslr: u64,
}

impl Seed {
    /// From the host's generator, if it has begun to give random bytes: on a host without any source of
    /// them that may take without end, and a guest comes up without a seed, too.
    pub(super) fn at_hand() -> Option<Self> {
        let rng = random()?;
        let kaslr = u64::from_le_bytes(random()?);
        Some(Self { rng, kaslr })
    }
}

fn reg(region: Region) -> [u64; 2] {
    [region.base, region.len_bytes]
}

/// The properties of the root node.
pub(super) fn root(fdt: &mut FdtWriter) -> Result<(), Error> {
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "Bulkhead")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)
}

/// `/chosen` and `/aliases`.
pub(super) fn chosen(fdt: &mut FdtWriter, chosen: &Chosen<'_>) -> Result<(), Error> {
    let uart = format!("/{}", uart_name(chosen.uart));
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", chosen.cmdline)?;
    fdt.property_string("stdout-path", &uart)?;
    if let Some(Initrd { base, len }) = chosen.initrd {
        fdt.property_u64("linux,initrd-start", base)?;
        fdt.property_u64("linux,initrd-end", base + len)?;
    }
    if let Some(Seed { rng, kaslr }) = chosen.seed {
        fdt.property("rng-seed", &rng)?;
        fdt.property_u64("kaslr-seed", kaslr)?;
    }
    fdt.end_node(node)?;
    let node = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &uart)?;
    fdt.end_node(node)
}

/// One node for each region of RAM.
pub(super) fn memory(fdt: &mut FdtWriter, memory: &GuestMemory) -> Result<(), Error> {
    for region in memory.iter() {
        let base = region.start_addr().raw_value();
        let node = fdt.begin_node(&format!("memory@{base:x}"))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[base, region.len()])?;
        fdt.end_node(node)?;
    }
    Ok(())
}

/// The wired interrupt of a device.
pub(super) fn interrupt(fdt: &mut FdtWriter, cells: &[u32]) -> Result<(), Error> {
    fdt.property_u32("interrupt-parent", INTERRUPT_CONTROLLER)?;
    fdt.property_array_u32("interrupts", cells)
}

fn uart_name(registers: Region) -> String {
    format!("uart@{:x}", registers.base)
}

/// The serial port.
pub(super) fn uart(fdt: &mut FdtWriter, uart: &Wired<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&uart_name(uart.registers))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &reg(uart.registers))?;
    fdt.property_u32("clock-frequency", UART_HZ)?;
    fdt.property_u32("current-speed", BAUD)?;
    interrupt(fdt, uart.interrupt)?;
    fdt.end_node(node)
}

/// pvpanic (Documentation/devicetree/bindings/misc/pvpanic-mmio.txt).
pub(super) fn pvpanic(fdt: &mut FdtWriter, registers: Region) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pvpanic@{:x}", registers.base))?;
    fdt.property_string("compatible", "qemu,pvpanic-mmio")?;
    fdt.property_array_u64("reg", &reg(registers))?;
    fdt.end_node(node)
}

/// The PCI host bridge (Documentation/devicetree/bindings/pci/host-generic-pci.yaml), whose
/// configuration space is at `ecam`. `line` tells where a device's interrupt line ends, as cells of
/// [`INTERRUPT_CONTROLLER`], its unit address included. With `has_msi` the devices' messages go to [`MSI_CONTROLLER`];
/// without, the node must not be named: a kernel would refuse the devices.
pub(super) fn pci(
    fdt: &mut FdtWriter,
    ecam: u64,
    machine: &MachineDesc,
    has_msi: bool,
    line: impl Fn(DeviceSlot) -> Vec<u32>,
) -> Result<(), Error> {
    let windows = machine.pci;
    const MEMORY_32: u32 = 0x0200_0000;
    const MEMORY_64: u32 = 0x0300_0000;
    let halves = |value: u64| [(value >> 32) as u32, (value & 0xffff_ffff) as u32];
    let range = |kind: u32, window: Region| {
        let [base, len] = [halves(window.base), halves(window.len_bytes)];
        // The address on the bus, the same for the processor, and the length.
        [kind, base[0], base[1], base[0], base[1], len[0], len[1]]
    };
    let ranges = [
        range(MEMORY_32, windows.bars_32),
        range(MEMORY_64, windows.bars_64),
    ];
    let node = fdt.begin_node(&format!("pci@{ecam:x}"))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("linux,pci-domain", 0)?;
    fdt.property_array_u32("bus-range", &[0, u32::from(LAST_BUS)])?;
    fdt.property_array_u64("reg", &[ecam, ECAM_LEN_BYTES])?;
    fdt.property_array_u32("ranges", &ranges.concat())?;
    fdt.property_null("dma-coherent")?;
    // Devices, not functions or pins.
    fdt.property_array_u32("interrupt-map-mask", &[0xf800, 0, 0, 0])?;
    let map = machine.slots.iter().flat_map(|slot| {
        let device = u32::from(slot.number()) << 11;
        let from = [device, 0, 0, 1, INTERRUPT_CONTROLLER];
        from.into_iter().chain(line(*slot))
    });
    fdt.property_array_u32("interrupt-map", &map.collect::<Vec<u32>>())?;
    if has_msi {
        // The ids of all requesters of the bus are what the controller knows the devices by.
        fdt.property_array_u32("msi-map", &[0, MSI_CONTROLLER, 0, 0x1_0000])?;
    }
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    const UART: Region = Region {
        base: 0x1000_0000,
        len_bytes: 8,
    };

    fn tree(initrd: Option<Initrd>, has_msi: bool) -> Vec<u8> {
        let ram = GuestMemory::from_ranges(&[(GuestAddress(1 << 31), 1 << 20)]).unwrap();
        let pci = crate::machine::PciWindows {
            bars_32: Region {
                base: 0x4000_0000,
                len_bytes: 0x4000_0000,
            },
            bars_64: Region {
                base: 0x12_0000_0000,
                len_bytes: 1 << 30,
            },
        };
        let told = Chosen {
            cmdline: "console=ttyS0",
            initrd,
            uart: UART,
            seed: Seed::at_hand(),
        };
        let serial = Wired {
            registers: UART,
            interrupt: &[0, 7, 4],
        };
        let mut fdt = FdtWriter::new().unwrap();
        let node = fdt.begin_node("").unwrap();
        root(&mut fdt).unwrap();
        chosen(&mut fdt, &told).unwrap();
        memory(&mut fdt, &ram).unwrap();
        uart(&mut fdt, &serial).unwrap();
        pvpanic(&mut fdt, UART).unwrap();
        let machine = MachineDesc {
            cpus: 1,
            pci,
            slots: DeviceSlot::all().take(2).collect(),
            board_button: true,
        };
        let line = |slot: DeviceSlot| vec![0, 40 + u32::from(slot.number()), 4];
        super::pci(&mut fdt, 0x3000_0000, &machine, has_msi, line).unwrap();
        fdt.end_node(node).unwrap();
        assert_eq!((INTERRUPT_CONTROLLER, MSI_CONTROLLER), (1, 2));
        fdt.finish().unwrap()
    }

    fn has(tree: &[u8], part: &[u8]) -> bool {
        tree.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn tree_says_where_everything_is() {
        let initrd = Initrd {
            base: 0x8100_0000,
            len: 0x1234,
        };
        let tree = tree(Some(initrd), true);
        assert_eq!(tree[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert!(has(&tree, &0x8100_1234_u64.to_be_bytes()));
        assert!(has(&tree, b"/uart@10000000\0") && has(&tree, b"memory@80000000\0"));
        let interrupt: Vec<u8> = [0_u32, 7, 4].iter().flat_map(|n| n.to_be_bytes()).collect();
        assert!(has(&tree, &interrupt));
        let window = [0x0300_0000_u32, 0x12, 0, 0x12, 0, 0, 0x4000_0000];
        let window: Vec<u8> = window.iter().flat_map(|n| n.to_be_bytes()).collect();
        assert!(has(&tree, &window));
        let line = [0x1000_u32, 0, 0, 1, INTERRUPT_CONTROLLER, 0, 42, 4];
        let line: Vec<u8> = line.iter().flat_map(|n| n.to_be_bytes()).collect();
        assert!(has(&tree, &line));
    }

    #[test]
    fn what_is_not_there_is_not_named() {
        let tree = tree(None, false);
        assert!(!has(&tree, b"msi-map\0") && !has(&tree, b"linux,initrd-start\0"));
        assert!(has(&super::tests::tree(None, true), b"msi-map\0"));
    }
}
