// SPDX-License-Identifier: Apache-2.0
//! All that the supervisor has: what the jailer opened for it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use ipc::memfd::{self, Backing, MemfdError};
use ipc::record::Geometry;
use nix::errno::Errno;
use spec::{HugePages, Memory, Vm, VmName, VmSpec};

use crate::parked::Parked;

/// What the jailer hands over to the supervisor.
#[derive(Debug)]
pub struct HostResources {
    /// The VM's name and spec.
    pub identity: Identity,
    /// The programs, and /dev/null for standard input and output.
    pub binaries: Binaries,
    /// KVM, the kernel, the initrd and the guest's RAM.
    pub guest: Guest,
    /// What the VM's devices are opened from.
    pub devices: DeviceParts,
    /// The console's backend.
    pub console: ConsoleKind,
    /// The log of all processes of the VM.
    pub log: Log,
    /// The listening socket of the API.
    pub api: UnixListener,
    /// What this host lacks for the VM, one line each; the supervisor logs them.
    pub missing: Vec<String>,
}

/// The VM's name and spec.
#[derive(Debug)]
pub struct Identity {
    /// The spec's name, or `vm-` and the jailer's process id.
    pub name: VmName,
    /// The spec as it is run, with that name.
    pub spec: VmSpec,
    /// The same spec, validated.
    pub vm: Vm,
    /// When the jailer started, in ns.
    pub started_ns: u64,
}

/// What children execute, and /dev/null.
#[derive(Debug)]
pub struct Binaries {
    /// The vmm's program.
    pub vmm: OwnedFd,
    /// The disk backend's program, if the VM has disks.
    pub blk: Option<OwnedFd>,
    /// The network backend's program, if the VM has NICs with a tap.
    pub net: Option<OwnedFd>,
    /// The power button's program, if that is a virtio device.
    pub input: Option<OwnedFd>,
    /// /dev/null.
    pub null: File,
}

/// There is no RAM for a guest.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// There is no memfd.
    #[error(transparent)]
    Memfd(#[from] MemfdError),
    /// It cannot come from the node that the user wants.
    #[error("cannot take it from node {0}")]
    Node(u32, #[source] Errno),
}

/// What a vmm needs to run the guest.
#[derive(Debug)]
pub struct Guest {
    /// /dev/kvm.
    pub kvm: OwnedFd,
    /// The kernel.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// RAM for the first vmm; the supervisor makes new RAM for each later one.
    pub ram: Option<OwnedFd>,
}

/// What devices are opened from; images, taps and streams are in the order of the spec.
#[derive(Debug)]
pub struct DeviceParts {
    /// The disk images.
    pub images: Vec<Image>,
    /// The taps of the NICs.
    pub taps: Vec<TapParts>,
    /// Streams to external vhost-user backends: passt's first, then the others'.
    pub streams: Vec<OwnedFd>,
}

/// An image that the jailer opened and locked. Every backend process gets an opening of its own.
#[derive(Debug)]
pub struct Image {
    /// The first backend's opening.
    pub first: Parked,
    /// The byte that this opening has locked as its mark.
    pub mark: i64,
    /// Size and block size as the guest sees them.
    pub geometry: Geometry,
}

/// A tap that is set up.
#[derive(Debug)]
pub struct TapParts {
    /// Its queues, in order.
    pub queues: Vec<OwnedFd>,
    /// Whether it can do UDP segmentation.
    pub uso: bool,
}

/// The log file, opened twice, and the one before.
#[derive(Debug)]
pub struct Log {
    /// For reading.
    pub reader: File,
    /// For appending.
    pub writer: File,
    /// What was in it before it became too long, for appending.
    pub old: File,
}

/// The console's backend.
#[derive(Debug)]
pub enum ConsoleKind {
    /// The clients of a socket.
    Socket {
        /// The socket that they connect to.
        listener: UnixListener,
        /// The client that the jailer inherited, if any.
        client: Option<UnixStream>,
        /// The socket's path.
        path: PathBuf,
    },
    /// A pseudo-terminal.
    Pty {
        /// The primary side, for the vmm.
        primary: OwnedFd,
        /// The secondary side, for the user.
        secondary: OwnedFd,
        /// The path that the user opens.
        path: String,
    },
    /// A file, or /dev/null.
    Fixed(File),
}

impl HostResources {
    /// The numbers of all descriptors in it, sorted. The process that gets the resources closes all
    /// others.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let (guest, devices) = (&self.guest, &self.devices);
        let mut all = vec![
            self.binaries.vmm.as_fd(),
            self.binaries.null.as_fd(),
            guest.kvm.as_fd(),
            guest.kernel.as_fd(),
            self.log.reader.as_fd(),
            self.log.writer.as_fd(),
            self.log.old.as_fd(),
            self.api.as_fd(),
        ];
        all.extend(guest.initrd.iter().map(AsFd::as_fd));
        all.extend(guest.ram.iter().map(AsFd::as_fd));
        all.extend(devices.images.iter().flat_map(|image| image.first.ends()));
        let binaries = &self.binaries;
        let backends = binaries.blk.iter().chain(&binaries.net);
        let backends = backends.chain(&binaries.input);
        all.extend(backends.map(AsFd::as_fd));
        let queues = devices.taps.iter().flat_map(|tap| &tap.queues);
        all.extend(queues.map(AsFd::as_fd));
        all.extend(devices.streams.iter().map(AsFd::as_fd));
        all.extend(self.console.descriptors());
        let mut numbers: Vec<_> = all.iter().map(AsRawFd::as_raw_fd).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl ConsoleKind {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Socket {
                listener, client, ..
            } => {
                let client = client.iter().map(AsFd::as_fd);
                client.chain([listener.as_fd()]).collect()
            }
            Self::Pty {
                primary, secondary, ..
            } => vec![primary.as_fd(), secondary.as_fd()],
            Self::Fixed(file) => vec![file.as_fd()],
        }
    }
}

impl Guest {
    /// New RAM for one vmm: it holds nothing of an earlier guest.
    pub fn fresh_ram(memory: &Memory) -> Result<OwnedFd, RamError> {
        let backing = match memory.huge_pages() {
            HugePages::None | HugePages::Transparent => Backing::Shmem,
            HugePages::Size2M => Backing::Huge2M,
            HugePages::Size1G => Backing::Huge1G,
        };
        let ram = memfd::shared("guest-ram", memory.size_bytes(), backing)?;
        if let Some(node) = memory.node() {
            let bound = host::numa::bind(ram.as_fd(), memory.size_bytes(), node);
            bound.map_err(|errno| RamError::Node(node, errno))?;
        }
        Ok(ram)
    }
}
