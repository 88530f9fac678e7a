// SPDX-License-Identifier: Apache-2.0
//! The device tree of a machine: processors, timer and PSCI, the GIC, and the board's devices
//! (Documentation/devicetree/bindings: arm/cpus.yaml, arm/psci.yaml, timer/arm,arch_timer.yaml,
//! interrupt-controller/arm,gic.yaml, arm,gic-v3.yaml).

use devices::arm::pl061;
use ipc::slot::DeviceSlot;
use kvm_ioctls::VcpuFd;
use vm_fdt::FdtWriter;

use super::irqchip::{Irqchip, Version};
use super::layout::{self, spi};
use super::vcpu::{self, Granules};
use crate::arch::fdt::{self, Chosen, INTERRUPT_CONTROLLER, MSI_CONTROLLER, Wired};
use crate::kvm::KvmError;
use crate::machine::MachineDesc;
use crate::memory::{GuestMemory, Region};

/// The nodes that others refer to, besides the interrupt controllers.
const CLOCK: u32 = 3;
const GPIO: u32 = 4;

/// The frequency of the clock that PrimeCells ask for.
const CLOCK_HZ: u32 = 24_000_000;
/// The key that the power button is (include/uapi/linux/input-event-codes.h: KEY_POWER).
const KEY_POWER: u32 = 116;

/// An interrupt's kind and trigger (include/dt-bindings/interrupt-controller/arm-gic.h).
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The private interrupts of the timers: secure, non-secure, virtual, hypervisor.
const TIMERS: [u32; 4] = [13, 14, 11, 10];

/// What the tree tells of what KVM made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub(super) version: Version,
    /// Of each vCPU, the fields of MPIDR_EL1 that identify it.
    pub(super) affinities: Vec<u64>,
    pub(super) granules: Option<Granules>,
}

impl Description {
    /// Of a machine with these interrupt controllers and vCPUs.
    pub fn new(irqchip: &Irqchip, vcpus: &[VcpuFd]) -> Result<Self, KvmError> {
        Ok(Self {
            version: irqchip.version(),
            affinities: vcpus.iter().map(vcpu::affinity).collect::<Result<_, _>>()?,
            granules: vcpus.first().map(Granules::of).transpose()?,
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
    let Description {
        version,
        affinities,
        ..
    } = description;
    let version = *version;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt::root(&mut fdt)?;
    fdt::chosen(&mut fdt, chosen)?;
    fdt::memory(&mut fdt, memory)?;
    cpus(&mut fdt, affinities)?;
    psci(&mut fdt)?;
    timer(&mut fdt, version, affinities.len())?;
    match version {
        Version::V3 => gicv3(&mut fdt, affinities.len() as u64)?,
        Version::V2 => gicv2(&mut fdt)?,
    }
    clock(&mut fdt)?;
    let wired = |registers, interrupt| Wired {
        registers,
        interrupt,
    };
    let shared = |spi: u16| [SHARED, u32::from(spi), LEVEL_HIGH];
    fdt::uart(&mut fdt, &wired(layout::UART, &shared(spi::UART)))?;
    rtc(&mut fdt, &shared(spi::RTC))?;
    gpio(&mut fdt, &shared(spi::GPIO))?;
    if machine.board_button {
        power_button(&mut fdt)?;
    }
    fdt::pvpanic(&mut fdt, layout::PVPANIC)?;
    // The controller has an address, of two cells, since it has a child.
    let line = |slot: DeviceSlot| {
        let [kind, spi, trigger] = shared(spi::pci(slot.number()));
        vec![0, 0, kind, spi, trigger]
    };
    fdt::pci(&mut fdt, layout::ECAM, machine, true, line)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn cpus(fdt: &mut FdtWriter, affinities: &[u64]) -> Result<(), vm_fdt::Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for affinity in affinities {
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,arm-v8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", *affinity)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("psci")?;
    let versions = ["arm,psci-1.0", "arm,psci-0.2"].map(String::from);
    fdt.property_string_list("compatible", versions.to_vec())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter, version: Version, cpus: usize) -> Result<(), vm_fdt::Error> {
    // A GICv2 wants to know which processors a private interrupt has.
    let mask = match version {
        Version::V3 => 0,
        Version::V2 => ((1_u32 << cpus.min(8)) - 1) << 8,
    };
    let interrupts = TIMERS.map(|number| [PRIVATE, number, LEVEL_HIGH | mask]);
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt::interrupt(fdt, &interrupts.concat())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

/// The properties of a GIC, with room for a child that takes messages.
fn gic(fdt: &mut FdtWriter, compatible: &str, reg: &[Region]) -> Result<(), vm_fdt::Error> {
    let reg: Vec<u64> = reg.iter().flat_map(|r| [r.base, r.len_bytes]).collect();
    fdt.property_string("compatible", compatible)?;
    fdt.property_array_u64("reg", &reg)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    fdt.property_phandle(INTERRUPT_CONTROLLER)
}

fn gicv3(fdt: &mut FdtWriter, cpus: u64) -> Result<(), vm_fdt::Error> {
    let redistributors = Region {
        base: layout::REDISTRIBUTORS,
        len_bytes: cpus * layout::REDISTRIBUTOR_BYTES,
    };
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", layout::GICD.base))?;
    gic(fdt, "arm,gic-v3", &[layout::GICD, redistributors])?;
    let its = fdt.begin_node(&format!("msi-controller@{:x}", layout::ITS.base))?;
    fdt.property_string("compatible", "arm,gic-v3-its")?;
    fdt.property_array_u64("reg", &[layout::ITS.base, layout::ITS.len_bytes])?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 1)?;
    fdt.property_phandle(MSI_CONTROLLER)?;
    fdt.end_node(its)?;
    fdt.end_node(node)
}

fn gicv2(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let distributor = Region {
        len_bytes: 0x1000,
        ..layout::GICD
    };
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", layout::GICD.base))?;
    gic(fdt, "arm,gic-400", &[distributor, layout::GICC])?;
    let frame = fdt.begin_node(&format!("msi-controller@{:x}", layout::V2M.base))?;
    fdt.property_string("compatible", "arm,gic-v2m-frame")?;
    fdt.property_array_u64("reg", &[layout::V2M.base, layout::V2M.len_bytes])?;
    fdt.property_null("msi-controller")?;
    fdt.property_phandle(MSI_CONTROLLER)?;
    fdt.end_node(frame)?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)
}

/// The properties of every PrimeCell.
fn primecell(
    fdt: &mut FdtWriter,
    compatible: &str,
    registers: Region,
    interrupt: &[u32],
) -> Result<(), vm_fdt::Error> {
    let compatible = [compatible, "arm,primecell"].map(String::from);
    fdt.property_string_list("compatible", compatible.to_vec())?;
    fdt.property_array_u64("reg", &[registers.base, registers.len_bytes])?;
    fdt::interrupt(fdt, interrupt)?;
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")
}

fn rtc(fdt: &mut FdtWriter, interrupt: &[u32]) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&format!("rtc@{:x}", layout::RTC.base))?;
    primecell(fdt, "arm,pl031", layout::RTC, interrupt)?;
    fdt.end_node(node)
}

fn gpio(fdt: &mut FdtWriter, interrupt: &[u32]) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&format!("gpio@{:x}", layout::GPIO.base))?;
    primecell(fdt, "arm,pl061", layout::GPIO, interrupt)?;
    fdt.property_null("gpio-controller")?;
    fdt.property_u32("#gpio-cells", 2)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_phandle(GPIO)?;
    fdt.end_node(node)
}

fn power_button(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let keys = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let node = fdt.begin_node("power-button")?;
    fdt.property_string("label", "Power Button")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    // Active high.
    fdt.property_array_u32("gpios", &[GPIO, pl061::BUTTON, 0])?;
    fdt.end_node(node)?;
    fdt.end_node(keys)
}
