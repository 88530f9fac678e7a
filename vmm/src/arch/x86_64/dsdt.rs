// SPDX-License-Identifier: Apache-2.0
//! The DSDT: the devices that a guest cannot probe (ACPI 6.5 §5.2.11.1), in AML.

use acpi_tables::aml::{
    self, AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt,
    Method, Name, Notify, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::{Aml, sdt::Sdt};
use devices::legacy::AcpiPm;
use devices::pci::root::CONFIG_PORT;
use ipc::slot::DeviceSlot;

use super::acpi::OEM;
use super::layout;
use crate::machine::{MachineDesc, PciWindows};
use crate::memory::Region;

/// "The device is present, enabled, to be shown, and functions" (§6.3.7).
const STA_PRESENT: u8 = 0xf;
/// The notification of a pressed power button (§5.6.6), and of a changed generation id.
const NOTIFICATION: u8 = 0x80;

/// Builds the DSDT of a machine.
pub(super) fn dsdt(machine: &MachineDesc) -> Vec<u8> {
    let (id, table_id, revision) = OEM;
    let mut table = Sdt::new(*b"DSDT", 36, 6, id, table_id, revision);
    let mut code = Vec::new();
    soft_off(&mut code);
    let mut devices = Vec::new();
    host_bridge(&mut devices, machine);
    com1(&mut devices);
    if machine.board_button {
        power_button(&mut devices);
    }
    generation_id(&mut devices);
    events(&mut devices, machine.board_button);
    pvpanic(&mut devices);
    code.extend(Scope::raw("\\_SB_".into(), devices));
    table.append_slice(&code);
    table.as_slice().to_vec()
}

/// The only sleep state: the value of the sleep control register for S5 (§7.4.2).
fn soft_off(code: &mut Vec<u8>) {
    let s5 = Package::new(vec![&AcpiPm::SLP_TYP_S5]);
    Name::new("\\_S5_".into(), &s5).to_aml_bytes(code);
}

/// Which pin of the IOAPIC the interrupt line of each PCI device has (§6.2.13): address, pin INTA#, no
/// link device, pin of the IOAPIC.
fn routing(slots: &[DeviceSlot]) -> Vec<(u32, u8)> {
    let entry = |slot: &DeviceSlot| {
        let pin = layout::pci_pin(slot.number());
        let address = u32::from(slot.number()) << 16 | 0xffff;
        (address, u8::try_from(pin).unwrap_or(0))
    };
    slots.iter().map(entry).collect()
}

fn host_bridge(code: &mut Vec<u8>, machine: &MachineDesc) {
    let PciWindows { bars_32, bars_64 } = machine.pci;
    let routing = routing(&machine.slots);
    let routes: Vec<[&dyn Aml; 4]> = routing
        .iter()
        .map(|(address, pin)| [address as &dyn Aml, &aml::ZERO, &aml::ZERO, pin])
        .collect();
    let routes: Vec<Package<'_>> = routes
        .iter()
        .map(|entry| Package::new(entry.to_vec()))
        .collect();
    let routes = Package::new(routes.iter().map(|entry| entry as &dyn Aml).collect());
    let last = |window: Region| window.base + (window.len_bytes - 1);
    let low32 = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let config_port = u16::try_from(CONFIG_PORT).unwrap_or(0);
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_ADR".into(), &aml::ZERO),
            &Name::new("_SEG".into(), &aml::ZERO),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_PRT".into(), &routes),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0_u16, u16::from(layout::LAST_BUS)),
                    &IO::new(config_port, config_port, 1, 8),
                    &AddressSpace::new_memory(
                        cacheable,
                        true,
                        low32(bars_32.base),
                        low32(last(bars_32)),
                        None,
                    ),
                    &AddressSpace::new_memory(cacheable, true, bars_64.base, last(bars_64), None),
                ]),
            ),
        ],
    )
    .to_aml_bytes(code);
}

fn com1(code: &mut Vec<u8>) {
    let (port, pin) = layout::COM1;
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_STA".into(), &STA_PRESENT),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(port, port, 1, 8), &edge(pin)]),
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// A control method power button (§4.8.2.2.1.2).
fn power_button(code: &mut Vec<u8>) {
    Device::new(
        "PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_STA".into(), &STA_PRESENT),
        ],
    )
    .to_aml_bytes(code);
}

/// The generation id of the VM, and where it is ("Virtual Machine Generation ID", Microsoft 2012): low
/// and high half of its address.
fn generation_id(code: &mut Vec<u8>) {
    let [low, high] = [layout::GENERATION_ID, layout::GENERATION_ID >> 32]
        .map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"VMGENCTR"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_STA".into(), &STA_PRESENT),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(code);
}

/// The generic event device (§5.6.9): each event has a pin of its own, whose number `_EVT` gets.
fn events(code: &mut Vec<u8>, has_button: bool) {
    let (button, generation) = (Path::new("\\_SB_.PWRB"), Path::new("\\_SB_.VGEN"));
    let mut sources = vec![(layout::GENERATION_PIN, &generation)];
    if has_button {
        sources.insert(0, (layout::BUTTON_PIN, &button));
    }
    let pins: Vec<_> = sources.iter().map(|(pin, _)| edge(*pin)).collect();
    let pins = pins.iter().map(|pin| pin as &dyn Aml).collect();
    let notify = |path| Notify::new(path, &NOTIFICATION);
    let cases: Vec<_> = sources
        .iter()
        .map(|(pin, path)| (u8::try_from(*pin).unwrap_or(0), notify(*path)))
        .collect();
    let is: Vec<_> = cases
        .iter()
        .map(|(pin, _)| Equal::new(&Arg(0), pin))
        .collect();
    let cases = is.iter().zip(&cases);
    let cases: Vec<_> = cases
        .map(|(is, (_, notify))| If::new(is, vec![notify]))
        .collect();
    let cases = cases.iter().map(|case| case as &dyn Aml).collect();
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(pins)),
            &Method::new("_EVT".into(), 1, true, cases),
        ],
    )
    .to_aml_bytes(code);
}

fn pvpanic(code: &mut Vec<u8>) {
    Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_STA".into(), &STA_PRESENT),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(layout::PVPANIC, layout::PVPANIC, 1, 1)]),
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// An edge-triggered, active-high, unshared interrupt.
fn edge(pin: usize) -> Interrupt {
    Interrupt::new(true, true, false, false, u32::try_from(pin).unwrap_or(0))
}
