// SPDX-License-Identifier: Apache-2.0
//! All that the supervisor has: what the janitor opened for it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use ipc::memfd::{self, Backing, MemfdError};
use ipc::record::{DeviceRecord, Pages, VERSION, VmmRecord};
use ipc::seccomp::Mode;
use nix::unistd::Pid;
use spec::{HugePages, Memory, Seccomp, Vm, VmName, VmSpec};

use super::devices::{Image, TapParts};

/// What the janitor hands over.
#[derive(Debug)]
pub(crate) struct Endowment {
    /// Which VM this is.
    pub(crate) identity: Identity,
    /// What is executed, and what it gets for standard input and output.
    pub(crate) binaries: Binaries,
    /// What the guest is made of.
    pub(crate) guest: Guest,
    /// What the devices are made of.
    pub(crate) devices: DeviceParts,
    /// Where the console leads.
    pub(crate) console: ConsoleKind,
    /// Where everybody logs to.
    pub(crate) log: Log,
    /// Where the API is served.
    pub(crate) api: UnixListener,
    /// What this host could not do for the VM, for the log.
    pub(crate) missing: Vec<String>,
}

/// What the first processes are called on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pids {
    pub(crate) janitor: Pid,
    pub(crate) supervisor: Pid,
}

/// Which VM this is.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its name, given or made up.
    pub(crate) name: VmName,
    /// The spec as it is run.
    pub(crate) spec: VmSpec,
    /// The same, validated.
    pub(crate) vm: Vm,
    /// When the jailer was started, in ns.
    pub(crate) started_ns: u64,
}

/// What is executed.
#[derive(Debug)]
pub(crate) struct Binaries {
    /// The vmm.
    pub(crate) vmm: OwnedFd,
    /// /dev/null.
    pub(crate) null: File,
}

/// What the guest is made of.
#[derive(Debug)]
pub(crate) struct Guest {
    /// /dev/kvm.
    pub(crate) kvm: OwnedFd,
    /// The kernel.
    pub(crate) kernel: File,
    /// The initial RAM disk.
    pub(crate) initrd: Option<File>,
    /// Memory for the first vmm; each later one gets its own.
    pub(crate) ram: Option<OwnedFd>,
}

/// What the devices are made of; images and streams are in the order of the spec.
#[derive(Debug)]
pub(crate) struct DeviceParts {
    /// The program that serves disks, if there are any.
    pub(crate) blk: Option<OwnedFd>,
    /// The images of the disks.
    pub(crate) images: Vec<Image>,
    /// The program that serves network cards, if there are any.
    pub(crate) net: Option<OwnedFd>,
    /// The taps of the network cards.
    pub(crate) taps: Vec<TapParts>,
    /// Streams to the backends of other programs: passt's, then the others'.
    pub(crate) streams: Vec<OwnedFd>,
}

/// Both ends of the log.
#[derive(Debug)]
pub(crate) struct Log {
    /// For reading.
    pub(crate) reader: File,
    /// For appending.
    pub(crate) writer: File,
}

/// Where the console leads.
#[derive(Debug)]
pub(crate) enum ConsoleKind {
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

impl Endowment {
    /// Every descriptor in it, in order of its number: whoever is given the endowment keeps these
    /// and no others.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
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
    pub(crate) fn fresh_ram(memory: &Memory) -> Result<OwnedFd, MemfdError> {
        let backing = match memory.huge_pages() {
            HugePages::None | HugePages::Transparent => Backing::Shmem,
            HugePages::Size2M => Backing::Huge2M,
            HugePages::Size1G => Backing::Huge1G,
        };
        memfd::shared("guest-ram", memory.size_bytes(), backing)
    }
}

impl Identity {
    /// What the vmm is told; the same at every start, but for the state of links and for whether a
    /// guest has run before.
    pub(crate) fn record(&self, devices: Vec<DeviceRecord>, rebooted: bool) -> VmmRecord {
        let vm = &self.vm;
        VmmRecord {
            version: VERSION,
            vm_id: self.name.to_string(),
            cpus: vm.cpus,
            mem_bytes: vm.memory.size_bytes(),
            pages: match vm.memory.huge_pages() {
                HugePages::None => Pages::Base,
                HugePages::Transparent => Pages::Transparent,
                HugePages::Size2M => Pages::Huge2M,
                HugePages::Size1G => Pages::Huge1G,
            },
            prefault: vm.memory.prefault(),
            cmdline: vm.cmdline.clone(),
            initrd: vm.initrd.is_some(),
            seccomp: self.seccomp(),
            rebooted,
            devices,
        }
    }

    /// What a system call outside the filters does.
    pub(crate) fn seccomp(&self) -> Mode {
        match self.vm.seccomp {
            Seccomp::On => Mode::Kill,
            Seccomp::Log => Mode::Trap,
        }
    }
}
