// SPDX-License-Identifier: Apache-2.0
//! Loads a kernel image into guest memory so that a vCPU can start in it.
//!
//! A bzImage is entered through the Linux 32-bit boot protocol, an ELF file through PVH. Both start
//! in 32-bit protected mode without paging, so the vCPU state is the same (see [`super::vcpu`]).
//! The boot structures of each are in [`linux`] and [`pvh`].

mod elf;
mod linux;
mod pvh;

use std::fs::File;

use devices::legacy::AcpiPm;
use kvm_ioctls::VcpuFd;
use log::warn;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::acpi;
use super::irqchip::Irqchip;
use super::layout::{self, HIGH_RAM};
use crate::boot::format::{self, Format, FormatError, Machine};
use crate::boot::{BootError, Images, Initrd, load_initrd, random, refusal};
use crate::kvm::KvmError;
use crate::machine::MachineDesc;
use crate::memory::{self, GuestMemory};

/// The address and registers with which the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// The address of the first instruction.
    pub address: u64,
    /// PVH: the address of the start info.
    pub ebx: u64,
    /// Linux: the address of the boot parameters.
    pub esi: u64,
}

/// A loaded kernel.
struct Kernel {
    entry: u64,
    /// The end of the memory it uses before it has read its memory map.
    end: u64,
    /// The highest address its initrd may have.
    initrd_max: u64,
    /// The setup header of a bzImage, for the boot parameters.
    setup: Option<linux_loader::loader::bootparam::setup_header>,
}

/// What the tables tell of what KVM made: nothing, all machines are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description;

impl Description {
    /// Of a machine with these interrupt controllers and vCPUs.
    pub fn new(_: &Irqchip, _: &[VcpuFd]) -> Result<Self, KvmError> {
        Ok(Self)
    }
}

/// Loads kernel, initrd and command line and writes the tables that describe the machine.
pub fn load(
    memory: &GuestMemory,
    images: Images<'_>,
    machine: &MachineDesc,
    Description: &Description,
) -> Result<EntryPoint, BootError> {
    let kernel = load_kernel(memory, File::from(images.kernel))?;
    let initrd = match images.initrd {
        Some(fd) => {
            let top = low_ram_end(memory).min(kernel.initrd_max.saturating_add(1));
            Some(load_initrd(memory, File::from(fd), kernel.end..top)?)
        }
        None => None,
    };
    let structures = |source| BootError::Structures(source);
    let mut cmdline = images.cmdline.as_bytes().to_vec();
    cmdline.push(0);
    memory
        .write_slice(&cmdline, GuestAddress(layout::CMDLINE))
        .map_err(structures)?;
    write_gdt(memory).map_err(structures)?;
    write_reset_vector(memory).map_err(structures)?;
    write_generation_id(memory).map_err(structures)?;
    acpi::write(memory, machine).map_err(|e| BootError::Tables(e.into()))?;
    match kernel.setup {
        Some(setup) => linux::write(memory, setup, initrd).map_err(structures)?,
        None => pvh::write(memory, initrd).map_err(structures)?,
    }
    Ok(EntryPoint {
        address: kernel.entry,
        ebx: layout::PVH,
        esi: layout::ZERO_PAGE,
    })
}

fn load_kernel(memory: &GuestMemory, mut image: File) -> Result<Kernel, BootError> {
    match format::identify(&image)? {
        Format::Elf(Machine::X86_64) => elf::load(memory, &mut image),
        Format::BzImage => linux::load(memory, &mut image),
        other => Err(refusal(other, "neither bzImage nor ELF")),
    }
}

/// The end of the RAM below the PCI hole.
fn low_ram_end(memory: &GuestMemory) -> u64 {
    memory::end(memory).min(layout::HOLE)
}

/// Whether a kernel that reaches up to `end` fits.
fn check_room(memory: &GuestMemory, end: u64) -> Result<(), BootError> {
    let has = low_ram_end(memory);
    if end <= has {
        return Ok(());
    }
    Err(BootError::KernelRoom {
        needs_mib: end.div_ceil(1 << 20),
        has_mib: has >> 20,
        place: " below the PCI hole",
    })
}

/// The GDT of 32-bit flat mode, with the selectors that the Linux boot protocol requires.
fn write_gdt(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    const GDT: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (at, descriptor) in (layout::GDT..).step_by(8).zip(GDT) {
        memory.write_obj(descriptor, GuestAddress(at))?;
    }
    Ok(())
}

/// Code for the reset vector, where a PC's firmware would begin. Linux takes a hardware-reduced
/// machine for one with EFI, finds none when it reboots, and jumps here in real mode without trying
/// the ACPI reset register: this code writes that register.
fn write_reset_vector(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let [low, high] = layout::ACPI_RESET.to_le_bytes();
    let value = AcpiPm::RESET_VALUE;
    // mov dx, port; mov al, value; out dx, al; hlt; jmp to the hlt
    let code = [0xba, low, high, 0xb0, value, 0xee, 0xf4, 0xeb, 0xfd];
    memory.write_slice(&code, GuestAddress(layout::RESET_VECTOR))
}

/// A number that no other run of a VM has: a guest that finds another one than before has been copied,
/// and must not go on with the random numbers that it had.
fn write_generation_id(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let id: Option<[u8; 16]> = random();
    if id.is_none() {
        warn!("this host has no random bytes yet: the guest's generation id is zero");
    }
    memory.write_slice(&id.unwrap_or_default(), GuestAddress(layout::GENERATION_ID))
}

/// The type of an address range in the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum RangeKind {
    Ram = 1,
    Reserved = 2,
}

/// The memory map: first address, length, type (E820 and PVH use the same numbers).
fn memory_map(memory: &GuestMemory) -> Vec<(u64, u64, RangeKind)> {
    let end = memory::end(memory);
    let mut map = vec![
        (0, layout::LOW_RAM_END, RangeKind::Ram),
        (layout::ACPI, HIGH_RAM - layout::ACPI, RangeKind::Reserved),
        (HIGH_RAM, low_ram_end(memory) - HIGH_RAM, RangeKind::Ram),
        (
            layout::ECAM,
            devices::pci::root::ECAM_LEN_BYTES,
            RangeKind::Reserved,
        ),
    ];
    if end > layout::HOLE_END {
        map.push((layout::HOLE_END, end - layout::HOLE_END, RangeKind::Ram));
    }
    map
}

#[cfg(test)]
mod tests;
