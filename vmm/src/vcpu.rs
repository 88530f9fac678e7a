// SPDX-License-Identifier: Apache-2.0
//! The vCPU threads: run the guest, emulate its register accesses, run it again.
//!
//! A thread checks for nothing between two exits; the main thread kicks it ([`kick`]) to send it to
//! the [`gate`]. It never ends before the process. Its vCPU is locked while it is not at the gate, where
//! the state thread may read it.

pub mod gate;
pub mod kick;
mod run_page;
mod sync;

#[cfg(test)]
mod gate_tests;
#[cfg(test)]
mod models;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::clock::monotonic_ns;
use ipc::control::Ending;
use ipc::cpu_set::CpuSet;
use ipc::health::HealthPage;
use ipc::seccomp::Mode;
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use log::{error, warn};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use crate::arch::{self, Board, Handled, state_of};
use crate::exit::{ExitLatch, Reason};
use crate::memory::GuestMemory;
use crate::seccomp;
use gate::Gate;
use kick::Kick;
use run_page::RunPage;

/// What KVM_RUN says by EFAULT where no guest can cause it, or by an MMIO exit at an address of the guest's
/// memory: so it answers an instruction that it emulates.
const NO_PAGE: &str = "the host could not give the guest a page of its memory (a faulty page, or no huge \
                       page left)";

/// What all vCPU threads share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The board.
    pub board: Arc<Board>,
    /// The guest's memory, where no device is.
    pub ram: &'static GuestMemory,
    /// Where a vCPU waits while the VM is paused.
    pub gate: Arc<Gate>,
    /// Why the machine ends.
    pub end: Arc<ExitLatch>,
    /// Counters.
    pub health: &'static HealthPage,
    /// What happens on a system call outside the filter.
    pub seccomp: Mode,
}

/// A vCPU thread cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread of vCPU {id}")]
pub struct SpawnError {
    id: u8,
    #[source]
    source: std::io::Error,
}

/// Starts the thread of vCPU `id`, which waits at the gate before it enters the guest; it runs on
/// `cpus`, or where this thread does.
pub fn spawn(
    id: u8,
    vcpu: &'static Mutex<VcpuFd>,
    cpus: Option<CpuSet>,
    shared: Shared,
) -> Result<Kick, SpawnError> {
    let run_page = RunPage::of(vcpu);
    let body = move || {
        Vcpu {
            id,
            vcpu,
            run_page,
            shared,
        }
        .run(cpus)
    };
    let thread = std::thread::Builder::new()
        .name(format!("vcpu{id}"))
        .stack_size(256 << 10)
        .spawn(body)
        .map_err(|source| SpawnError { id, source })?;
    Ok(Kick::new(run_page, thread))
}

struct Vcpu {
    id: u8,
    vcpu: &'static Mutex<VcpuFd>,
    run_page: RunPage,
    shared: Shared,
}

/// What to do after an exit.
enum Next {
    Run,
    Gate,
    End(Reason),
}

impl Vcpu {
    fn run(self, cpus: Option<CpuSet>) -> ! {
        // Its filter has no call for that.
        let placed = cpus.map_or(Ok(()), |cpus| host::affinity::place(&cpus));
        if let Err(e) = placed {
            warn!("vCPU {} does not run on its processors: {e}", self.id);
        }
        if let Err(e) = seccomp::confine_vcpu(self.shared.seccomp) {
            // Never run the guest on a thread without its filter.
            self.shared.end.set(Reason::Host(host::log::chain(&e)));
            self.shared.gate.wait_for_end();
        }
        let mut vcpu = self.stop_at_gate();
        if self.id == 0 {
            self.shared
                .health
                .first_run_ns
                .store(monotonic_ns(), Ordering::Relaxed);
        }
        loop {
            match self.step(&mut vcpu) {
                Next::Run => {}
                Next::Gate => {
                    drop(vcpu);
                    vcpu = self.stop_at_gate();
                }
                Next::End(reason) => {
                    self.shared.end.set(reason);
                    drop(vcpu);
                    self.shared.gate.wait_for_end();
                }
            }
        }
    }

    fn stop_at_gate(&self) -> MutexGuard<'static, VcpuFd> {
        let clear = || self.run_page.clear_exit_request();
        self.shared.gate.stop(clear);
        let vcpu = self.vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        arch::after_pause(&vcpu);
        vcpu
    }

    /// Runs the guest until the next exit, and handles it.
    fn step(&self, vcpu: &mut VcpuFd) -> Next {
        let Shared { board, health, .. } = &self.shared;
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _))
                if self.shared.ram.address_in_range(GuestAddress(address)) =>
            {
                self.stuck(vcpu, NO_PAGE, true)
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                health.mmio_exits.fetch_add(1, Ordering::Relaxed);
                board.memory().read(address, data);
                Next::Run
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                health.mmio_exits.fetch_add(1, Ordering::Relaxed);
                board.memory().write(address, data);
                Next::Run
            }
            Ok(VcpuExit::Intr) => Next::Gate,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => guest(Ending::PowerOff),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => guest(Ending::Reboot),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => guest(Ending::Panic),
            Ok(VcpuExit::Shutdown) => {
                warn!("triple fault on vCPU {}: {}", self.id, state_of(vcpu));
                guest(Ending::TripleFault)
            }
            Ok(exit) => match arch::handle(exit, self.run_page.port_width(), board, health) {
                Handled::Done => Next::Run,
                Handled::Unknown(exit) => {
                    let (exit, host_fault) = (format!("{exit:?}"), is_host_fault(&exit));
                    self.stuck(vcpu, &exit, host_fault)
                }
            },
            Err(e) => match e.errno() {
                libc::EINTR | libc::EAGAIN => Next::Gate,
                errno => {
                    let is_guests = arch::is_guest_fault(errno);
                    let what = match errno {
                        libc::EFAULT if !is_guests => NO_PAGE.into(),
                        _ => format!("KVM_RUN: {e}"),
                    };
                    self.stuck(vcpu, &what, !is_guests)
                }
            },
        }
    }

    /// Handles an exit after which the guest cannot continue.
    fn stuck(&self, vcpu: &VcpuFd, exit: &str, host_fault: bool) -> Next {
        let (id, state) = (self.id, state_of(vcpu));
        if host_fault {
            error!("vCPU {id} cannot run: {exit}: {state}");
            return Next::End(Reason::Host(format!("vCPU {id} cannot run: {exit}")));
        }
        warn!("the guest crashed on vCPU {id}: {exit}: {state}");
        guest(Ending::Crash)
    }
}

fn guest(ending: Ending) -> Next {
    Next::End(Reason::Guest(ending))
}

/// Whether an unexpected exit is the host's fault. If KVM cannot emulate an instruction
/// (InternalError), that is the guest's fault.
fn is_host_fault(exit: &VcpuExit<'_>) -> bool {
    !matches!(exit, VcpuExit::InternalError | VcpuExit::MemoryFault { .. })
}
