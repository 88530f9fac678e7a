// SPDX-License-Identifier: Apache-2.0
//! What loading a guest has in common on every architecture: the images, what can be wrong with them,
//! the initrd, and random bytes. The architecture loads the kernel, whose format is its own.

pub mod format;

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;

use ipc::control::About;
use linux_loader::loader::Error as LoaderError;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::{self, GuestMemory};
use format::{Format, FormatError};

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
    #[error("is a kernel for {0}, this host runs {host}", host = std::env::consts::ARCH)]
    Architecture(String),
    /// The kernel is of no known format.
    #[error("is not a kernel: {formats}")]
    Unknown {
        /// What it is not: "neither … nor …".
        formats: &'static str,
    },
    /// The kernel is compressed in a way that this host does not undo.
    #[error("is compressed by {how}: {formats}")]
    Compressed {
        /// The format of the compression.
        how: &'static str,
        /// What it is not: "neither … nor …".
        formats: &'static str,
    },
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
    /// The kernel needs more memory than the guest has.
    #[error("the kernel needs memory up to {needs_mib} MiB, there are {has_mib}{place}")]
    KernelRoom {
        /// Where the kernel ends.
        needs_mib: u64,
        /// Where memory ends.
        has_mib: u64,
        /// Which memory, if not all: " below …".
        place: &'static str,
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
    /// The tables that describe the machine cannot be made.
    #[error(transparent)]
    Tables(Box<dyn std::error::Error + Send + Sync>),
}

impl BootError {
    /// Which part of the spec is at fault.
    pub fn about(&self) -> About {
        match self {
            Self::Format(_)
            | Self::Unknown { .. }
            | Self::Compressed { .. }
            | Self::Architecture(_)
            | Self::Truncated { .. }
            | Self::Protocol { .. }
            | Self::Unusable(_)
            | Self::Load(_)
            | Self::KernelLoad(_) => About::Kernel,
            Self::KernelRoom { .. } | Self::Structures(_) | Self::Tables(_) => About::Mem,
            Self::InitrdRoom { .. } | Self::InitrdEmpty | Self::Initrd(_) | Self::InitrdLoad(_) => {
                About::Initrd
            }
        }
    }
}

/// Why a kernel of this format is not for this host, which runs kernels of `formats`.
pub fn refusal(format: Format, formats: &'static str) -> BootError {
    match format {
        Format::Elf(machine) => BootError::Architecture(machine.to_string()),
        Format::BzImage => BootError::Architecture("x86_64".into()),
        Format::Arm64Image => BootError::Architecture("aarch64".into()),
        Format::RiscvImage => BootError::Architecture("riscv64".into()),
        Format::Gzip => BootError::Compressed {
            how: "gzip",
            formats,
        },
        Format::Zboot => BootError::Unusable(
            "is an EFI program that holds a compressed kernel, and there is no firmware here: take \
             the kernel's Image",
        ),
        Format::Pe => BootError::Unusable(
            "is an EFI program without a Linux setup header, and there is no firmware here: of a \
             unified kernel image take the kernel (objcopy -O binary -j .linux IMAGE KERNEL)",
        ),
        Format::Unknown => BootError::Unknown { formats },
    }
}

/// A loaded initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    /// Its address.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Loads the initrd as high as possible between `room.start`, where the kernel ends, and `room.end`.
pub fn load_initrd(
    memory: &GuestMemory,
    mut image: File,
    room: Range<u64>,
) -> Result<Initrd, BootError> {
    let len = image.metadata().map_err(BootError::Initrd)?.len();
    if len == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let base = room.end.checked_sub(len).map(|base| base & !0xfff);
    let Some(base) = base.filter(|base| *base >= room.start) else {
        let room_mib = room.end.saturating_sub(room.start) >> 20;
        return Err(BootError::InitrdRoom {
            len_mib: len.div_ceil(1 << 20),
            room_mib,
        });
    };
    std::io::Seek::rewind(&mut image).map_err(BootError::Initrd)?;
    let count = usize::try_from(len).unwrap_or(usize::MAX);
    memory::prefer_large_pages(memory, GuestAddress(base), len);
    let copied = memory.read_exact_volatile_from(GuestAddress(base), &mut image, count);
    copied.map_err(BootError::InitrdLoad)?;
    Ok(Initrd { base, len })
}
/// Random bytes of the host, unless we would have to wait for them. (getrandom(2): up to 256 bytes come
/// whole.)
pub(crate) fn random<const LEN: usize>() -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let len = getrandom(&mut bytes, GetRandomFlags::NONBLOCK).ok()?;
    (len == LEN).then_some(bytes)
}
