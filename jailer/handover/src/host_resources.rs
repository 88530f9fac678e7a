// SPDX-License-Identifier: Apache-2.0
//! All that the supervisor has: what the jailer opened for it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use ipc::memfd::{self, Backing, MemfdError};
use ipc::record::Geometry;
use spec::{HugePages, Memory, Vm, VmName, VmSpec};

use crate::parked::Parked;

/// What the jailer hands over.
#[derive(Debug)]
pub struct HostResources {
    /// Which VM this is.
    pub identity: Identity,
    /// What is executed, and what it gets for standard input and output.
    pub binaries: Binaries,
    /// What the guest is made of.
    pub guest: Guest,
    /// What the devices are made of.
    pub devices: DeviceParts,
    /// Where the console leads.
    pub console: ConsoleKind,
    /// Where everybody logs to.
    pub log: Log,
    /// Where the API is served.
    pub api: UnixListener,
    /// What this host could not do for the VM, for the log.
    pub missing: Vec<String>,
}

/// Which VM this is.
#[derive(Debug)]
pub struct Identity {
    /// Its name, given or made up.
    pub name: VmName,
    /// The spec as it is run.
    pub spec: VmSpec,
    /// The same, validated.
    pub vm: Vm,
    /// When the jailer was started, in ns.
    pub started_ns: u64,
}

/// What is executed.
#[derive(Debug)]
pub struct Binaries {
    /// The vmm.
    pub vmm: OwnedFd,
    /// /dev/null.
    pub null: File,
}

/// What the guest is made of.
#[derive(Debug)]
pub struct Guest {
    /// /dev/kvm.
    pub kvm: OwnedFd,
    /// The kernel.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// Memory for the first vmm; each later one gets its own.
    pub ram: Option<OwnedFd>,
}

/// What the devices are made of; images and streams are in the order of the spec.
#[derive(Debug)]
pub struct DeviceParts {
    /// The program that serves disks, if there are any.
    pub blk: Option<OwnedFd>,
    /// The images of the disks.
    pub images: Vec<Image>,
    /// The program that serves network cards, if there are any.
    pub net: Option<OwnedFd>,
    /// The taps of the network cards.
    pub taps: Vec<TapParts>,
    /// Streams to the backends of other programs: passt's, then the others'.
    pub streams: Vec<OwnedFd>,
}

/// An image that was opened and locked. Every backend gets an opening of its own.
#[derive(Debug)]
pub struct Image {
    /// That of the first backend.
    pub first: Parked,
    /// The byte that it has marked.
    pub mark: i64,
    /// What it is.
    pub geometry: Geometry,
}

/// A tap that is ready.
#[derive(Debug)]
pub struct TapParts {
    /// Its queues, in order.
    pub queues: Vec<OwnedFd>,
    /// Whether it can do UDP segmentation.
    pub uso: bool,
}

/// Both ends of the log.
#[derive(Debug)]
pub struct Log {
    /// For reading.
    pub reader: File,
    /// For appending.
    pub writer: File,
}

/// Where the console leads.
#[derive(Debug)]
pub enum ConsoleKind {
    /// To the clients of a socket.
    Socket {
        /// Where they connect.
        listener: UnixListener,
        /// The first one.
        client: Option<UnixStream>,
        /// The socket.
        path: PathBuf,
    },
    /// To a pseudo-terminal.
    Pty {
        /// The vmm's side.
        primary: OwnedFd,
        /// The user's side.
        secondary: OwnedFd,
        /// Where the user opens it.
        path: String,
    },
    /// To a file, or to /dev/null.
    Fixed(File),
}

impl HostResources {
    /// Every descriptor in it, in order of its number: whoever is given the resources keeps these
    /// and no others.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let (guest, devices) = (&self.guest, &self.devices);
        let mut all = vec![
            self.binaries.vmm.as_fd(),
            self.binaries.null.as_fd(),
            guest.kvm.as_fd(),
            guest.kernel.as_fd(),
            self.log.reader.as_fd(),
            self.log.writer.as_fd(),
            self.api.as_fd(),
        ];
        all.extend(guest.initrd.iter().map(AsFd::as_fd));
        all.extend(guest.ram.iter().map(AsFd::as_fd));
        all.extend(devices.blk.iter().map(AsFd::as_fd));
        all.extend(devices.images.iter().flat_map(|image| image.first.ends()));
        all.extend(devices.net.iter().map(AsFd::as_fd));
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
    /// Memory for one vmm: nothing of the guest before is in it.
    pub fn fresh_ram(memory: &Memory) -> Result<OwnedFd, MemfdError> {
        let backing = match memory.huge_pages() {
            HugePages::None | HugePages::Transparent => Backing::Shmem,
            HugePages::Size2M => Backing::Huge2M,
            HugePages::Size1G => Backing::Huge1G,
        };
        memfd::shared("guest-ram", memory.size_bytes(), backing)
    }
}
