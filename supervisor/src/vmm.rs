// SPDX-License-Identifier: Apache-2.0
//! One generation of the vmm: its launch record, what its process is started with, and what it leaves in the
//! log.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use handover::host_resources::Guest;
use ipc::control::{ControlError, FromVmm, ToVmm};
use ipc::fd;
use ipc::health::Crash;
use ipc::irqchip;
use ipc::record::{DeviceRecord, Pages, VERSION, VmmRecord};
use ipc::slot::DeviceSlot;
use nix::unistd::{Whence, lseek};
use spec::api::ProcessInfo;
use spec::{CpuSet, HugePages, Irqchip, PowerButton, Vm};

use super::beginning::Beginning;
use super::child::ChildSpec;
use super::death::Death;
use super::devices::Link;
use super::jailer_link::JailerLink;
use super::process::{Incoming, ManagedProcess, SpawnContext, SpawnError};
use crate::profile::Profile;

/// How much of the log is examined when a vmm died.
const TAIL_BYTES: usize = 4096;

/// A vmm could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmmError {
    /// A descriptor could not be prepared.
    #[error("cannot prepare a file descriptor")]
    Prepare(#[from] nix::Error),
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate a file descriptor")]
    Duplicate(#[from] std::io::Error),
    /// There is no process.
    #[error("cannot start the vmm")]
    Spawn(#[from] SpawnError),
}

/// A vmm that was started and has not been reaped.
#[derive(Debug)]
pub(crate) struct Vmm {
    process: ManagedProcess,
    /// Where the log ended when it was started.
    log_start: u64,
    /// It was told to save its machine, has not answered, and nobody waits for that any more.
    pub(crate) owes_save: bool,
}

/// The vmm's launch record; the same at every start, except for the state of links and for what it
/// begins with.
pub(crate) fn record(
    context: &SpawnContext,
    vm: &Vm,
    devices: Vec<DeviceRecord>,
    begins: Beginning,
) -> VmmRecord {
    VmmRecord {
        version: VERSION,
        machine: vm.machine,
        vm_id: context.vm_id.clone(),
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
        irqchip: irqchip(vm.irqchip),
        board_button: matches!(vm.power_button, PowerButton::Acpi | PowerButton::Gpio),
        seccomp: context.seccomp,
        log_format: context.log_format,
        cpu: vm.cpu.clone(),
        rebooted: begins == Beginning::Reboot,
        restores: begins == Beginning::Restores,
        vcpu_affinity: vcpu_affinity(vm),
        devices,
    }
}

/// Empty if every vCPU runs where the vmm does.
fn vcpu_affinity(vm: &Vm) -> Vec<CpuSet> {
    let sets: Vec<_> = (0..vm.cpus).map(|id| vm.affinity.of_vcpu(id)).collect();
    match sets.iter().all(Option::is_none) {
        true => Vec::new(),
        false => sets.into_iter().map(Option::unwrap_or_default).collect(),
    }
}

fn irqchip(wanted: Irqchip) -> Option<irqchip::Irqchip> {
    match wanted {
        Irqchip::Auto => None,
        Irqchip::Gicv3 => Some(irqchip::Irqchip::Gicv3),
        Irqchip::Gicv2 => Some(irqchip::Irqchip::Gicv2),
        Irqchip::Aia => Some(irqchip::Irqchip::Aia),
        Irqchip::Plic => Some(irqchip::Irqchip::Plic),
    }
}

/// What one vmm alone gets.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) ram: OwnedFd,
    pub(crate) record: OwnedFd,
    pub(crate) console: OwnedFd,
    pub(crate) links: Vec<(DeviceSlot, Link)>,
    /// What the vmm before has saved.
    pub(crate) state: Option<OwnedFd>,
    pub(crate) program: OwnedFd,
}

/// What a vmm is started with.
pub(crate) fn spec(guest: &Guest, parts: Parts, profile: Profile) -> Result<ChildSpec, VmmError> {
    // The vmm before has read them, and shares the file offset.
    let initrd = guest.initrd.as_ref();
    for file in [Some(&guest.kernel), initrd].into_iter().flatten() {
        lseek(file, 0, Whence::SeekSet)?;
    }
    let mut fds = vec![
        (fd::RECORD, parts.record),
        (fd::vmm::KVM, guest.kvm.try_clone()?),
        (fd::vmm::GUEST_RAM, parts.ram),
        (fd::vmm::KERNEL, guest.kernel.try_clone()?.into()),
        (fd::vmm::CONSOLE, parts.console),
    ];
    if let Some(initrd) = initrd {
        fds.push((fd::vmm::INITRD, initrd.try_clone()?.into()));
    }
    fds.extend(parts.state.map(|state| (fd::vmm::STATE, state)));
    for (slot, link) in parts.links {
        let (stream, inflight) = fd::vmm::device(slot);
        fds.push((stream, link.stream));
        fds.extend(link.inflight.map(|region| (inflight, region)));
    }
    Ok(ChildSpec {
        name: c"vmm",
        arg: None,
        program: parts.program,
        fds,
        profile,
    })
}

impl Vmm {
    /// Starts a vmm.
    pub(crate) fn spawn(context: &SpawnContext, spec: &ChildSpec) -> Result<Self, VmmError> {
        let log_start = context.log.reader.metadata().map_or(0, |m| m.len());
        let process = ManagedProcess::start(context, spec)?;
        Ok(Self {
            process,
            log_start,
            owes_save: false,
        })
    }

    /// Asks the jailer for its process id on the host, or looks for the answer.
    pub(crate) fn identify(&mut self, jailer: &JailerLink) {
        let say = |pid| log::info!("started a vmm, pid {pid}");
        self.process.identify(jailer, say);
    }

    /// Its process.
    pub(crate) fn process(&self) -> &ManagedProcess {
        &self.process
    }

    /// The messages that have come, in order; not all of them if there are many.
    pub(crate) fn listen(&mut self) -> Vec<Incoming<FromVmm>> {
        self.process.listen()
    }

    /// Sends the vmm a message, with a descriptor if it has one.
    pub(crate) fn tell(&self, message: ToVmm, fd: Option<&OwnedFd>) -> Result<(), ControlError> {
        self.process.tell(&message, fd)
    }

    /// Kills it; it must still be reaped.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// How it ended, if it has.
    pub(crate) fn reap(&mut self) -> Option<Death> {
        self.process.reap()
    }

    /// What it recorded about its own death.
    pub(crate) fn crash(&self) -> Crash {
        self.process.crash()
    }

    /// The last lines of what was logged since it was started.
    pub(crate) fn log_tail(&self, log: &File) -> String {
        let end = log.metadata().map_or(0, |m| m.len());
        // A log that was rotated since is shorter.
        let first = if self.log_start > end {
            0
        } else {
            self.log_start
        };
        let start = end.saturating_sub(TAIL_BYTES as u64).max(first);
        let mut tail = vec![0; TAIL_BYTES];
        let len = log.read_at(&mut tail, start).unwrap_or(0);
        String::from_utf8_lossy(&tail[..len]).into_owned()
    }

    /// What it understands: the version of its health page.
    pub(crate) fn version(&self) -> u32 {
        self.process.health().version.load(Ordering::Relaxed)
    }

    /// Whether it can never save its machine, by its own account.
    pub(crate) fn never_saves(&self) -> bool {
        let never = &self.process.health().never_saves;
        never.load(Ordering::Relaxed) != 0
    }

    /// For `inspect`.
    pub(crate) fn info(&self) -> ProcessInfo {
        let health = self.process.health();
        ProcessInfo {
            first_run_ns: health.first_run_ns.load(Ordering::Relaxed),
            pio_exits: health.pio_exits.load(Ordering::Relaxed),
            mmio_exits: health.mmio_exits.load(Ordering::Relaxed),
            ..self.process.info("vmm".into(), 0)
        }
    }
}
