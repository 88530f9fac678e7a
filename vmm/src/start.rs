// SPDX-License-Identifier: Apache-2.0
//! From the inherited descriptors to a guest that is ready to run.

mod restore;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::guest_event::GuestEvents;
use devices::interrupt::CallWatcher;
use host::seccomp::SeccompError;
use ipc::control::{About, Channel, ControlError, Ending, Failure, FromVmm};
use ipc::cpu_set::CpuSet;
use ipc::fd::{self, FdError};
use ipc::health::HealthPage;
use ipc::irqchip;
use ipc::record::{MACHINE, VmmRecord};
use ipc::seccomp::Mode;
use kvm_ioctls::VcpuFd;
use log::warn;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::{self, Board, BoardError, Description, Irqchip, VcpuSetupError};
use crate::await_backends::{AwaitError, Awaited, await_backends};
use crate::boot::{BootError, Images};
use crate::console::Console;
use crate::control::Control;
use crate::exit::{ExitLatch, Reason};
use crate::intx::IntxWatcher;
use crate::kvm::{KvmError, Vm};
use crate::machine::MachineDesc;
use crate::memory::{self, GuestMemory, Mapping, MemoryError};
use crate::pci::{self, PciError};
use crate::saver::{Functions, SaveError};
use crate::seccomp;
use crate::vcpu::gate::Gate;
use crate::vcpu::kick::Kick;
use crate::vcpu::{self, Shared, SpawnError, kick};
use crate::virtio::{Device, VirtioError};
use restore::{Vcpus, leak, patience, restore, start_saver, take_state};

/// Why the guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A descriptor is missing.
    #[error(transparent)]
    Fd(#[from] FdError),
    /// The machine is of a version that this build does not make.
    #[error("this vmm makes no machine of version {0}, only of version {MACHINE}")]
    Machine(u32),
    /// Guest memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The devices of the board conflict.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The PCI bus cannot be assembled.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The kernel, the initrd or the tables cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A virtio device cannot be made.
    #[error(transparent)]
    Virtio(#[from] VirtioError),
    /// A device has no backend.
    #[error(transparent)]
    Await(#[from] AwaitError),
    /// The supervisor cannot be told.
    #[error(transparent)]
    Channel(#[from] ControlError),
    /// A vCPU cannot be set up.
    #[error(transparent)]
    Vcpu(#[from] VcpuSetupError),
    /// A vCPU thread cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The state of the vmm before cannot be taken up.
    #[error(transparent)]
    State(#[from] SaveError),
    /// The process cannot be confined.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A call of the host kernel failed that normally never fails.
    #[error("cannot {0}")]
    Host(&'static str, #[source] std::io::Error),
}

impl StartError {
    /// The message for the supervisor.
    pub fn to_failure(&self) -> Failure {
        let about = match self {
            Self::Boot(e) => Some(e.about()),
            Self::Memory(_) => Some(About::Mem),
            Self::Kvm(KvmError::Cpus(_) | KvmError::CpusOfIrqchip { .. }) | Self::Spawn(_) => {
                Some(About::Cpus)
            }
            Self::Kvm(KvmError::AddressBits { .. }) => Some(About::Mem),
            Self::Kvm(KvmError::LacksFeatures(_)) => Some(About::Cpu),
            Self::Kvm(KvmError::NoSuchIrqchip(_) | KvmError::LacksIrqchip { .. }) => {
                Some(About::Irqchip)
            }
            Self::Kvm(_) | Self::Vcpu(_) => Some(About::Kvm),
            _ => None,
        };
        Failure {
            about,
            reason: host::log::chain(self),
        }
    }
}

/// The descriptors of a vmm, besides those that every child has.
struct Inherited {
    kvm: OwnedFd,
    guest_ram: OwnedFd,
    kernel: OwnedFd,
    initrd: Option<OwnedFd>,
    console: OwnedFd,
}

impl Inherited {
    fn claim(record: &VmmRecord) -> Result<Self, FdError> {
        let initrd = if record.initrd {
            Some(fd::claim(fd::vmm::INITRD)?)
        } else {
            None
        };
        Ok(Self {
            kvm: fd::claim(fd::vmm::KVM)?,
            guest_ram: fd::claim(fd::vmm::GUEST_RAM)?,
            kernel: fd::claim(fd::vmm::KERNEL)?,
            initrd,
            console: fd::claim(fd::vmm::CONSOLE)?,
        })
    }
}

/// Builds the machine, loads the guest, starts the vCPU threads and confines the process. The guest
/// runs when the caller serves the result.
pub fn start(
    record: &VmmRecord,
    channel: &Arc<Channel>,
    health: &'static HealthPage,
) -> Result<Control, StartError> {
    if record.machine != MACHINE {
        return Err(StartError::Machine(record.machine));
    }
    let fds = Inherited::claim(record)?;
    let host = |what| move |e: std::io::Error| StartError::Host(what, e);
    let hardware = make_vm(record, fds.kvm, fds.guest_ram)?;
    channel.send(&FromVmm::Irqchip(hardware.irqchip.kind()))?;

    let end = Arc::new(ExitLatch::new().map_err(host("make an eventfd"))?);
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("make an eventfd"))?;
    let events: Arc<dyn GuestEvents> = Arc::clone(&end) as Arc<dyn GuestEvents>;
    report_violations(record.seccomp, health)?;
    let parts = take_state(record)?;
    let mut devices = Device::make_all(record, hardware.ram, channel, parts.as_ref())?;
    let (board, functions, desc) = assemble(record, &hardware, &devices, &events, &wake)?;
    let images = Images {
        kernel: fds.kernel,
        initrd: fds.initrd,
        cmdline: &record.cmdline,
    };
    match &parts {
        Some(parts) => restore(parts, &hardware, &board, &functions)?,
        None => load(images, &hardware, &desc)?,
    }
    devices.iter_mut().for_each(Device::connect);

    let gate = Arc::new(Gate::default());
    let shared = Shared {
        board: Arc::clone(&board),
        ram: hardware.ram,
        gate: Arc::clone(&gate),
        end: Arc::clone(&end),
        health,
        seccomp: record.seccomp,
    };
    let vcpus = leak(hardware.vcpus);
    let kicks = start_vcpus(&vcpus, &record.vcpu_affinity, &shared)?;
    let parts_of = (hardware.vm, vcpus, functions);
    let saver = start_saver(record, parts_of, &board, &devices)?;
    let console = Console::new(fds.console, board.serial());
    if await_backends(&devices, channel, patience(record))? == Awaited::PowerOff {
        end.set(Reason::Guest(Ending::PowerOff));
    }
    host::image::let_go();
    seccomp::confine_main(record.seccomp)?;
    Ok(Control {
        console,
        wake,
        end,
        board,
        gate,
        kicks,
        devices,
        saver,
        held: parts.is_some(),
    })
}

/// Has a violation of a filter named in the log and on the health page, if the mode asks for that.
fn report_violations(mode: Mode, health: &'static HealthPage) -> Result<(), StartError> {
    if mode != Mode::Trap {
        return Ok(());
    }
    let installed = host::seccomp::report_violations(health);
    installed.map_err(|e| StartError::Host("install the SIGSYS handler", e.into()))
}

/// What KVM makes.
struct Hardware {
    vm: Arc<Vm>,
    ram: &'static GuestMemory,
    irqchip: Irqchip,
    vcpus: Vec<VcpuFd>,
}

/// Makes the VM with its memory, interrupt controllers and vCPUs. If the host cannot complete the
/// interrupt controllers it has announced, a fresh VM gets others.
fn make_vm(record: &VmmRecord, kvm: OwnedFd, ram: OwnedFd) -> Result<Hardware, StartError> {
    let ram = map_ram(record, ram)?;
    let again = kvm.try_clone();
    let made = try_vm(record, kvm, ram, record.irqchip);
    let fallback = match &made {
        Err(StartError::Kvm(error)) => Irqchip::fallback(record.irqchip, error),
        _ => None,
    };
    let Some(other) = fallback else { return made };
    warn!("{} is tried instead", other.name());
    let kvm = again.map_err(|e| StartError::Host("duplicate a descriptor", e))?;
    try_vm(record, kvm, ram, Some(other))
}

/// Makes the VM in the order that KVM asks for.
fn try_vm(
    record: &VmmRecord,
    kvm: OwnedFd,
    ram: &'static GuestMemory,
    choice: Option<irqchip::Irqchip>,
) -> Result<Hardware, StartError> {
    let vm = Arc::new(Vm::new(kvm, record.cpus)?);
    let bars = arch::pci_windows(memory::end(ram)).bars_64;
    arch::prepare_vm(&vm, bars.base + bars.len_bytes, &record.cpu)?;
    vm.set_memory(ram)?;
    let irqchip = Irqchip::new(&vm, choice, record.cpus)?;
    let vcpus = arch::create_vcpus(&vm, record.cpus, &record.cpu)?;
    irqchip.complete(&vcpus)?;
    Ok(Hardware {
        vm,
        ram,
        irqchip,
        vcpus,
    })
}

/// Puts the devices on their buses.
fn assemble(
    record: &VmmRecord,
    hardware: &Hardware,
    devices: &[Device],
    events: &Arc<dyn GuestEvents>,
    wake: &EventFd,
) -> Result<(Arc<Board>, Functions, MachineDesc), StartError> {
    let Hardware {
        vm, ram, irqchip, ..
    } = hardware;
    let desc = MachineDesc {
        cpus: record.cpus,
        pci: arch::pci_windows(memory::end(ram)),
        slots: devices.iter().map(Device::slot).collect(),
        board_button: record.board_button,
    };
    let watcher = IntxWatcher::start(record.seccomp);
    let watcher = watcher.map_err(|e| StartError::Host("start a thread", e))?;
    let watcher = watcher as Arc<dyn CallWatcher>;
    let on_bus = devices.iter().map(|one| (one.slot(), one.device()));
    let on_bus = on_bus.collect();
    let memory_space = Arc::default();
    let (root, functions) = pci::bus(vm, irqchip, &watcher, &memory_space, desc.pci, on_bus)?;
    let board = Board::new(irqchip, memory_space, Arc::new(root), events, wake)?;
    Ok((Arc::new(board), functions, desc))
}

/// Maps guest memory.
fn map_ram(record: &VmmRecord, memfd: OwnedFd) -> Result<&'static GuestMemory, MemoryError> {
    let how = Mapping {
        pages: record.pages,
        prefault: record.prefault,
    };
    let regions = arch::ram_regions(record.mem_bytes);
    // Leaked: it must stay mapped as long as the VM lives, which is as long as the process.
    Ok(Box::leak(Box::new(memory::map(memfd, &regions, how)?)))
}

/// Loads kernel and initrd, describes the machine to them, and has the first vCPU start there.
fn load(images: Images<'_>, of: &Hardware, desc: &MachineDesc) -> Result<(), StartError> {
    let description = Description::new(&of.irqchip, &of.vcpus)?;
    let entry = arch::load(of.ram, images, desc, &description)?;
    if let Some(first) = of.vcpus.first() {
        arch::enter_at(first, entry)?;
    }
    Ok(())
}

/// Starts the vCPUs' threads, and waits until all are confined and stopped at the gate.
fn start_vcpus(
    vcpus: &Vcpus,
    affinity: &[CpuSet],
    shared: &Shared,
) -> Result<Vec<Kick>, StartError> {
    let prepared = kick::prepare().map_err(std::io::Error::from);
    prepared.map_err(|e| StartError::Host("install a signal handler", e))?;
    let spawn = |(id, vcpu)| {
        let cpus = affinity.get(usize::from(id)).copied();
        let cpus = cpus.filter(|cpus| !cpus.is_empty());
        vcpu::spawn(id, vcpu, cpus, shared.clone())
    };
    let each = (0..).zip(vcpus.iter().copied());
    let kicks: Vec<Kick> = each.map(spawn).collect::<Result<_, _>>()?;
    shared.gate.wait_until_stopped(kicks.len());
    Ok(kicks)
}
