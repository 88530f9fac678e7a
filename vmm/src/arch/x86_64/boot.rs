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
use std::os::fd::OwnedFd;

use devices::legacy::AcpiPm;
use ipc::control::About;
use linux_loader::loader::Error as LoaderError;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::acpi::{self, AcpiError};
use super::layout::{self, HIGH_RAM};
use crate::boot::{self, Format, FormatError, Machine};
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

/// The images to load for a guest.
#[derive(Debug)]
pub struct Images<'a> {
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initial RAM disk.
    pub initrd: Option<OwnedFd>,
    /// The kernel command line, without NUL.
    pub cmdline: &'a str,
}

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel image is not a kernel.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The kernel is for another architecture.
    #[error("is a kernel for {0}, this host runs x86_64")]
    Architecture(String),
    /// The kernel image is truncated.
    #[error("is truncated: {found} bytes long, {expected} are expected")]
    Truncated {
        /// The length of the file.
        found: u64,
        /// The length according to its headers.
        expected: u64,
    },
    /// The kernel needs a boot loader that enters it in 16-bit mode.
    #[error(
        "speaks boot protocol {major}.{minor:02}; 2.10 (Linux 2.6.31) or newer is needed: older \
         kernels start in 16-bit real mode, for which there is no firmware here"
    )]
    Protocol {
        /// The major protocol version.
        major: u16,
        /// The minor protocol version.
        minor: u16,
    },
    /// The kernel's headers are inconsistent, or need what this machine lacks.
    #[error("{0}")]
    Unusable(&'static str),
    /// The kernel could not be loaded.
    #[error("cannot be loaded")]
    Load(#[source] LoaderError),
    /// The kernel could not be copied.
    #[error("cannot be loaded")]
    KernelLoad(#[source] GuestMemoryError),
    /// The kernel needs more memory than the guest has below the PCI hole.
    #[error(
        "the kernel needs memory up to {needs_mib} MiB, there are {has_mib} below the PCI hole"
    )]
    KernelRoom {
        /// Where the kernel ends.
        needs_mib: u64,
        /// Where memory ends.
        has_mib: u64,
    },
    /// The initrd does not fit above the kernel.
    #[error("is {len_mib} MiB large, {room_mib} MiB are left behind the kernel")]
    InitrdRoom {
        /// The length of the initrd.
        len_mib: u64,
        /// The space left.
        room_mib: u64,
    },
    /// The initrd is empty.
    #[error("is empty")]
    InitrdEmpty,
    /// The initrd could not be read.
    #[error("cannot be read")]
    Initrd(#[source] std::io::Error),
    /// The initrd could not be copied.
    #[error("cannot be loaded")]
    InitrdLoad(#[source] GuestMemoryError),
    /// The boot structures do not fit into guest memory.
    #[error("cannot write the boot structures")]
    Structures(#[source] GuestMemoryError),
    /// The ACPI tables do not fit into guest memory.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
}

impl BootError {
    /// Which part of the spec is at fault.
    pub fn about(&self) -> About {
        match self {
            Self::Format(_)
            | Self::Architecture(_)
            | Self::Truncated { .. }
            | Self::Protocol { .. }
            | Self::Unusable(_)
            | Self::Load(_)
            | Self::KernelLoad(_) => About::Kernel,
            Self::KernelRoom { .. } | Self::Structures(_) | Self::Acpi(_) => About::Mem,
            Self::InitrdRoom { .. } | Self::InitrdEmpty | Self::Initrd(_) | Self::InitrdLoad(_) => {
                About::Initrd
            }
        }
    }
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

/// A loaded initrd.
#[derive(Debug, Clone, Copy)]
struct Initrd {
    base: u64,
    len: u64,
}

/// Loads kernel, initrd and command line and writes the tables that describe the machine.
pub fn load(
    memory: &GuestMemory,
    images: Images<'_>,
    cpus: u8,
    bars_64: (u64, u64),
) -> Result<EntryPoint, BootError> {
    let kernel = load_kernel(memory, File::from(images.kernel))?;
    let initrd = match images.initrd {
        Some(fd) => Some(load_initrd(memory, File::from(fd), &kernel)?),
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
    acpi::write(memory, cpus, bars_64)?;
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
    match boot::identify(&image)? {
        Format::Elf(Machine::X86_64) => elf::load(memory, &mut image),
        Format::BzImage => linux::load(memory, &mut image),
        Format::Elf(other) => Err(BootError::Architecture(other.to_string())),
        Format::Arm64Image => Err(BootError::Architecture("arm64".into())),
        Format::RiscvImage => Err(BootError::Architecture("riscv64".into())),
        Format::Gzip => Err(BootError::Unusable(
            "is compressed by gzip: neither bzImage nor ELF",
        )),
        Format::Pe => Err(BootError::Unusable(
            "is an EFI program without a Linux setup header, and there is no firmware here: of a \
             unified kernel image take the kernel (objcopy -O binary -j .linux IMAGE KERNEL)",
        )),
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
    })
}

/// Loads the initrd as high as the kernel allows.
fn load_initrd(
    memory: &GuestMemory,
    mut image: File,
    kernel: &Kernel,
) -> Result<Initrd, BootError> {
    let len = image.metadata().map_err(BootError::Initrd)?.len();
    if len == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let top = low_ram_end(memory).min(kernel.initrd_max.saturating_add(1));
    let base = top.checked_sub(len).map(|base| base & !0xfff);
    let Some(base) = base.filter(|base| *base >= kernel.end) else {
        let room_mib = top.saturating_sub(kernel.end) >> 20;
        return Err(BootError::InitrdRoom {
            len_mib: len.div_ceil(1 << 20),
            room_mib,
        });
    };
    std::io::Seek::rewind(&mut image).map_err(BootError::Initrd)?;
    let count = usize::try_from(len).unwrap_or(usize::MAX);
    let copied = memory.read_exact_volatile_from(GuestAddress(base), &mut image, count);
    copied.map_err(BootError::InitrdLoad)?;
    Ok(Initrd { base, len })
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
