// SPDX-License-Identifier: Apache-2.0
//! The device tree of a machine: harts, interrupt controllers, and the board's devices
//! (Documentation/devicetree/bindings: riscv/cpus.yaml, riscv/extensions.yaml,
//! interrupt-controller/riscv,imsics.yaml, riscv,aplic.yaml, rtc/google,goldfish-rtc.yaml).

use ipc::slot::DeviceSlot;
use kvm_ioctls::VcpuFd;
use vm_fdt::FdtWriter;

use super::irqchip::Irqchip;
use super::isa::Isa;
use super::layout::{self, source};
use crate::arch::fdt::{self, Chosen, INTERRUPT_CONTROLLER, MSI_CONTROLLER, Wired};
use crate::kvm::KvmError;
use crate::machine::MachineDesc;
use crate::memory::GuestMemory;

/// The node of hart 0's own interrupt controller; those of the others follow it.
const HART_CONTROLLERS: u32 = 16;
/// A hart's interrupt of external devices, in supervisor mode.
const SUPERVISOR_EXTERNAL: u32 = 9;
/// The trigger of a source: level, high.
const LEVEL_HIGH: u32 = 4;

/// What the tree tells of what KVM made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub(super) harts: u32,
    pub(super) isa: Isa,
    /// How many interrupts an IMSIC tells apart; `None` on a machine with a PLIC.
    pub(super) ids: Option<u32>,
}

impl Description {
    /// Of a machine with these interrupt controllers and harts, which are all alike.
    pub fn new(irqchip: &Irqchip, vcpus: &[VcpuFd]) -> Result<Self, KvmError> {
        let first = vcpus.first().ok_or(KvmError::Cpus(0))?;
        let ids = irqchip.ids()?;
        Ok(Self {
            harts: u32::try_from(vcpus.len()).unwrap_or(u32::MAX),
            isa: Isa::of(first, ids.is_some())?,
            ids,
        })
    }
}

/// Makes the tree.
pub(super) fn device_tree(
    memory: &GuestMemory,
    machine: &MachineDesc,
    description: &Description,
    chosen: &Chosen<'_>,
) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt::root(&mut fdt)?;
    fdt::chosen(&mut fdt, chosen)?;
    fdt::memory(&mut fdt, memory)?;
    cpus(&mut fdt, description)?;
    match description.ids {
        Some(ids) => {
            imsics(&mut fdt, description.harts, ids)?;
            aplic(&mut fdt)?;
        }
        None => plic(&mut fdt, description.harts, machine)?,
    }
    // All sources of a PLIC are alike, those of an APLIC have a trigger.
    let interrupt = |source: u32| match description.ids {
        Some(_) => vec![source, LEVEL_HIGH],
        None => vec![source],
    };
    let uart = Wired {
        registers: layout::UART,
        interrupt: &interrupt(source::UART),
    };
    fdt::uart(&mut fdt, &uart)?;
    rtc(&mut fdt, &interrupt(source::RTC))?;
    fdt::pvpanic(&mut fdt, layout::PVPANIC)?;
    let line = |slot: DeviceSlot| interrupt(source::pci(slot.number()));
    let has_msi = description.ids.is_some();
    fdt::pci(&mut fdt, layout::ECAM, machine, has_msi, line)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn cpus(fdt: &mut FdtWriter, description: &Description) -> Result<(), vm_fdt::Error> {
    let isa = &description.isa;
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    fdt.property_u32("timebase-frequency", isa.timebase_hz)?;
    for hart in 0..description.harts {
        let node = fdt.begin_node(&format!("cpu@{hart:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "riscv")?;
        fdt.property_string("status", "okay")?;
        fdt.property_u32("reg", hart)?;
        fdt.property_string("mmu-type", isa.mmu)?;
        // Linux reads the list from 6.6 on, and the string before.
        fdt.property_string("riscv,isa", &isa.string())?;
        fdt.property_string("riscv,isa-base", "rv64i")?;
        fdt.property_string_list("riscv,isa-extensions", isa.extensions.clone())?;
        if let Some(bytes) = isa.cbom_block {
            fdt.property_u32("riscv,cbom-block-size", bytes)?;
        }
        if let Some(bytes) = isa.cboz_block {
            fdt.property_u32("riscv,cboz-block-size", bytes)?;
        }
        let controller = fdt.begin_node("interrupt-controller")?;
        fdt.property_string("compatible", "riscv,cpu-intc")?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 1)?;
        fdt.property_u32("#address-cells", 0)?;
        fdt.property_phandle(HART_CONTROLLERS + hart)?;
        fdt.end_node(controller)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

/// The external interrupts of all harts, as a controller's node refers to them.
fn to_harts(harts: u32) -> Vec<u32> {
    let each = (0..harts).flat_map(|hart| [HART_CONTROLLERS + hart, SUPERVISOR_EXTERNAL]);
    each.collect()
}

/// A PLIC with as many sources as the machine has devices: Linux sets up every source for every hart
/// when it boots, each by several exits.
fn plic(fdt: &mut FdtWriter, harts: u32, machine: &MachineDesc) -> Result<(), vm_fdt::Error> {
    let devices = machine.slots.iter().map(|slot| source::pci(slot.number()));
    let last = devices.max().unwrap_or(source::RTC);
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", layout::PLIC.base))?;
    let compatible = ["sifive,plic-1.0.0", "riscv,plic0"].map(String::from);
    fdt.property_string_list("compatible", compatible.to_vec())?;
    fdt.property_array_u64("reg", &[layout::PLIC.base, layout::PLIC.len_bytes])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_u32("riscv,ndev", last)?;
    // Contexts are numbered in this order: one for each hart.
    fdt.property_array_u32("interrupts-extended", &to_harts(harts))?;
    fdt.property_phandle(INTERRUPT_CONTROLLER)?;
    fdt.end_node(node)
}

fn imsics(fdt: &mut FdtWriter, harts: u32, ids: u32) -> Result<(), vm_fdt::Error> {
    let len = u64::from(harts) * layout::IMSIC_BYTES;
    let node = fdt.begin_node(&format!("imsics@{:x}", layout::IMSICS))?;
    fdt.property_string("compatible", "riscv,imsics")?;
    fdt.property_array_u64("reg", &[layout::IMSICS, len])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 0)?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 0)?;
    fdt.property_u32("riscv,num-ids", ids)?;
    fdt.property_array_u32("interrupts-extended", &to_harts(harts))?;
    fdt.property_phandle(MSI_CONTROLLER)?;
    fdt.end_node(node)
}

fn aplic(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", layout::APLIC.base))?;
    fdt.property_string("compatible", "riscv,aplic")?;
    fdt.property_array_u64("reg", &[layout::APLIC.base, layout::APLIC.len_bytes])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_u32("riscv,num-sources", source::LAST)?;
    fdt.property_u32("msi-parent", MSI_CONTROLLER)?;
    fdt.property_phandle(INTERRUPT_CONTROLLER)?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter, interrupt: &[u32]) -> Result<(), vm_fdt::Error> {
    let registers = layout::RTC;
    let node = fdt.begin_node(&format!("rtc@{:x}", registers.base))?;
    fdt.property_string("compatible", "google,goldfish-rtc")?;
    fdt.property_array_u64("reg", &[registers.base, registers.len_bytes])?;
    fdt::interrupt(fdt, interrupt)?;
    fdt.end_node(node)
}
