// SPDX-License-Identifier: Apache-2.0
//! The state of the machine, put together and taken apart; and the thread that saves it, because reading
//! KVM's part takes calls that the filters of no other thread have.
//!
//! It is saved while no vCPU runs and every device holds its queues. It is restored before any vCPU
//! thread starts.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::pci::root::Slot;
use devices::state::StateError as DeviceStateError;
use devices::virtio::transport::pci::function::{FunctionState, VirtioPci};
use devices::virtio::vhost_user::device::VhostUserDevice;
use ipc::seccomp::Mode;
use ipc::slot::DeviceSlot;
use kvm_ioctls::VcpuFd;
use log::error;

use crate::arch::{self, Board, MachineStateError};
use crate::kvm::Vm;
use crate::seccomp;
use crate::state::{Parts, StateError, Writer};

/// How long KVM may take to tell the state of all vCPUs.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the state of the machine cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// That of KVM or of the board cannot.
    #[error(transparent)]
    Machine(#[from] MachineStateError),
    /// The state is none, or one of another machine.
    #[error(transparent)]
    State(#[from] StateError),
    /// A device had no backend yet.
    #[error("device {0} has had no backend yet")]
    NoBackend(String),
    /// A device cannot have the state.
    #[error("device in slot {slot}")]
    Device {
        /// Its slot.
        slot: u8,
        /// The error.
        #[source]
        source: DeviceStateError,
    },
    /// The thread has not answered.
    #[error("the state of the vCPUs was not read in time")]
    Late,
    /// The thread is gone.
    #[error("the thread that saves the machine is gone")]
    Gone,
}

/// The function of each device on the PCI bus.
pub type Functions = Vec<(Slot, Arc<VirtioPci>)>;

/// What has a state.
pub struct Machine {
    /// Its version.
    pub version: u32,
    /// The VM.
    pub vm: Arc<Vm>,
    /// Its vCPUs; their threads let go of them while they wait at the gate.
    pub vcpus: Vec<&'static Mutex<VcpuFd>>,
    /// The board.
    pub board: Arc<Board>,
    /// The devices as their drivers see them.
    pub functions: Functions,
    /// The devices as their backends see them, with their names.
    pub devices: Vec<(DeviceSlot, String, Arc<VhostUserDevice>)>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

impl Machine {
    fn save(&self, memfd: OwnedFd) -> Result<(), SaveError> {
        let mut out = Writer::new(self.version);
        arch::save_machine(&self.vm, &self.vcpus, &self.board, &mut out)?;
        for (slot, function) in &self.functions {
            out.json("function", slot.number().into(), &function.save())?;
        }
        for (slot, id, device) in &self.devices {
            let state = device.save();
            let state = state.ok_or_else(|| SaveError::NoBackend(id.clone()))?;
            out.json("device", slot.number().into(), &state)?;
        }
        Ok(out.write_to(memfd)?)
    }
}

/// Restores the functions of devices. Their drivers' queues stay stopped until they are released.
pub fn restore_functions(functions: &Functions, parts: &Parts) -> Result<(), SaveError> {
    for (slot, function) in functions {
        let slot = slot.number();
        let state: FunctionState = parts.json("function", slot.into())?;
        let restored = function.restore(&state);
        restored.map_err(|source| SaveError::Device { slot, source })?;
    }
    Ok(())
}

/// The thread.
pub struct Saver {
    orders: Sender<OwnedFd>,
    done: Receiver<Result<(), SaveError>>,
}

impl fmt::Debug for Saver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Saver")
    }
}

impl Saver {
    /// Starts the thread, which confines itself before it waits.
    pub fn start(machine: Machine, mode: Mode) -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        let body = move || {
            // Without the thread the machine cannot be saved; its guest does not need that.
            if let Err(e) = seccomp::confine_state(mode) {
                error!("{}", host::log::chain(&e));
            } else {
                while let Ok(memfd) = ordered.recv() {
                    let _ = tell.send(machine.save(memfd));
                }
            }
            // The end of a thread takes calls that no filter has.
            loop {
                std::thread::park();
            }
        };
        let builder = std::thread::Builder::new().name("state".into());
        builder.stack_size(256 << 10).spawn(body)?;
        Ok(Self { orders, done })
    }

    /// Saves the machine to a memfd. No vCPU may run, and every device must hold its queues.
    pub fn save(&self, memfd: OwnedFd) -> Result<(), SaveError> {
        // What came too late for an earlier one.
        while self.done.try_recv().is_ok() {}
        self.orders.send(memfd).map_err(|_| SaveError::Gone)?;
        match self.done.recv_timeout(SAVE_TIMEOUT) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(SaveError::Late),
            Err(RecvTimeoutError::Disconnected) => Err(SaveError::Gone),
        }
    }
}
