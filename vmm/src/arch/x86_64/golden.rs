// SPDX-License-Identifier: Apache-2.0
//! What a guest sees of the board: addresses, pins of the IOAPIC, and the ACPI tables.

use devices::ioapic;
use devices::legacy::{AcpiPm, I8042, PvPanic};
use devices::pci::root::{CONFIG_PORT, CONFIG_PORTS, ECAM_LEN_BYTES};
use devices::serial;
use vm_memory::{Bytes, GuestAddress};

use super::{acpi, layout};
use crate::arch::golden;

pub(in crate::arch) fn describe() -> String {
    let (com1, com1_pin) = layout::COM1;
    let pins = (1..=25_u8).map(|slot| layout::pci_pin(slot).to_string());
    let pins = pins.collect::<Vec<_>>().join(" ");
    format!(
        "ports: COM1 {com1:#x}+{} (pin {com1_pin}), i8042 {:#x}+{}, pvpanic {:#x}+{}, sleep and reset {:#x}+{}, \
         PCI {CONFIG_PORT:#x}+{CONFIG_PORTS}\n\
         memory: ECAM {:#x}+{ECAM_LEN_BYTES:#x}, IOAPIC {:#x}+{:#x} of {} pins, local APICs {:#x}\n\
         button: pin {}, generation id: pin {} at {:#x}\n\
         lines of PCI slots 1 to 25: pins {pins}\n\
         {}",
        serial::PORTS,
        layout::I8042,
        I8042::PORTS,
        layout::PVPANIC,
        PvPanic::PORTS,
        layout::ACPI_PM,
        AcpiPm::PORTS,
        layout::ECAM,
        layout::IOAPIC,
        ioapic::LEN_BYTES,
        ioapic::PINS,
        layout::LOCAL_APIC,
        layout::BUTTON_PIN,
        layout::GENERATION_PIN,
        layout::GENERATION_ID,
        tables(),
    )
}

/// The ACPI tables, and what is beside them.
fn tables() -> String {
    let memory = golden::ram(0, 1 << 20);
    acpi::write(&memory, &golden::machine()).unwrap();
    let mut bytes = vec![0; 1 << 20];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    golden::hex(0, &bytes)
}
