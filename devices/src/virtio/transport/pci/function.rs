// SPDX-License-Identifier: Apache-2.0
//! A virtio device as a PCI function: its configuration space, and the placement of its BAR.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::bus::{Bus, BusDevice, Doorbells};
use crate::interrupt::MsiVectors;
use crate::pci::bar::{Bar, NoWindow, Windows};
use crate::pci::config::{ConfigSpace, ConfigState, Identity, NoRoom, command};
use crate::pci::root::PciFunction;
use crate::state::StateError;
use crate::virtio::device::{DeviceType, VirtioDevice};
use crate::virtio::eventfd::QueueEvents;
use crate::virtio::queue;
use crate::virtio::transport::pci::capabilities::{self, Offsets, cap};
use crate::virtio::transport::pci::intx::Intx;
use crate::virtio::transport::pci::msix::Control;
use crate::virtio::transport::pci::registers::{Registers, RegistersState};
use crate::virtio::transport::pci::{QUEUES_MAX, layout};

/// MSI-X Message Control (PCI local bus 3.0 §6.8.2.3).
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;

/// What a function needs from the machine.
#[derive(Clone)]
pub struct PciContext {
    /// The memory space, for the BAR.
    pub memory_space: Arc<Bus>,
    /// For the doorbells of the queues.
    pub doorbells: Arc<dyn Doorbells>,
    /// The function's own vectors: [`super::vector_count`] of them.
    pub vectors: Arc<dyn MsiVectors>,
    /// The function's interrupt line, if the machine has one for it.
    pub intx: Option<Intx>,
}

impl fmt::Debug for PciContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciContext").finish_non_exhaustive()
    }
}

/// Why a device cannot become a PCI function.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// It has too many queues, or one with an invalid size.
    #[error("{0} virtqueues, or one of their sizes, are not possible")]
    Queues(usize),
    /// Its configuration space is too long.
    #[error("{0} bytes of configuration are not possible")]
    Config(usize),
    /// An eventfd cannot be made.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    /// There is no space for its BAR.
    #[error("no place for its registers")]
    Window(#[source] NoWindow),
    /// There is no space for its capabilities.
    #[error("no place for its capabilities")]
    Capability(#[source] NoRoom),
}

/// What configuration space and registers of a function hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionState {
    config: ConfigState,
    registers: RegistersState,
}

#[derive(Debug)]
struct State {
    config: ConfigSpace,
    placed: Option<u64>,
}

/// A virtio PCI function.
#[derive(Debug)]
pub struct VirtioPci {
    state: Mutex<State>,
    offsets: Offsets,
    registers: Arc<Registers>,
    memory_space: Arc<Bus>,
}

/// The identity of a device of this type (virtio 1.2 §4.1.2).
fn identity(device_type: DeviceType) -> Identity {
    let class = match device_type {
        DeviceType::NET => [0x02, 0x00, 0x00],
        DeviceType::BLOCK => [0x01, 0x00, 0x00],
        DeviceType::FS => [0x01, 0x80, 0x00],
        DeviceType::VSOCK => [0x07, 0x80, 0x00],
        _ => [0x00, 0xff, 0x00],
    };
    Identity {
        // "Devices MUST have the PCI Vendor ID 0x1AF4", and "the PCI Device ID calculated by adding
        // 0x1040 to the Virtio Device ID" (§4.1.2.1)
        vendor_id: 0x1af4,
        device_id: 0x1040 + u16::from(device_type.0),
        // "Non-transitional devices SHOULD have a PCI Revision ID of 1 or higher" and "a PCI
        // Subsystem Device ID of 0x40 or higher" (§4.1.2.1)
        revision_id: 1,
        class,
        subsystem_vendor_id: 0x1af4,
        subsystem_id: 0x1040 + u16::from(device_type.0),
    }
}

impl VirtioPci {
    /// Makes a function of a device and allocates its BAR. The registers respond once the driver
    /// enables memory space.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        context: PciContext,
        windows: &mut Windows,
    ) -> Result<Self, FunctionError> {
        let (sizes, config_len) = (device.queue_max_sizes(), device.config_len_bytes());
        let possible = |&size: &u16| size.is_power_of_two() && size <= queue::SIZE_MAX;
        if sizes.len() > QUEUES_MAX || !sizes.iter().all(possible) {
            return Err(FunctionError::Queues(sizes.len()));
        }
        if config_len as u64 > layout::DEVICE_CONFIG_MAX {
            return Err(FunctionError::Config(config_len));
        }
        let events = sizes.iter().map(|_| QueueEvents::new().map(Arc::new));
        let queues: Vec<_> = events
            .collect::<Result<_, _>>()
            .map_err(FunctionError::EventFd)?;
        let mut config = ConfigSpace::new(identity(device.device_type()));
        let bar = Bar::Memory64 {
            len: layout::BAR_LEN_BYTES,
        };
        let address = windows.place(bar).map_err(FunctionError::Window)?;
        config.add_bar(usize::from(capabilities::BAR), bar, address);
        let offsets = capabilities::add(&mut config, sizes.len(), config_len)
            .map_err(FunctionError::Capability)?;
        if context.intx.is_some() {
            config.set_interrupt_pin();
        }
        let PciContext {
            memory_space,
            doorbells,
            vectors,
            intx,
        } = context;
        let registers = Registers::new(device, queues, vectors, intx, doorbells);
        Ok(Self {
            state: Mutex::new(State {
                config,
                placed: None,
            }),
            offsets,
            registers: Arc::new(registers),
            memory_space,
        })
    }

    /// What the function's registers hold.
    pub fn save(&self) -> FunctionState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        FunctionState {
            config: state.config.save(),
            registers: self.registers.save(),
        }
    }

    /// Sets what the registers hold. If the driver was ready, the device starts: it must have its
    /// backend.
    pub fn restore(&self, saved: &FunctionState) -> Result<(), StateError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = state.config.clone();
        config.restore(&saved.config)?;
        self.registers.restore(&saved.registers)?;
        state.config = config;
        self.apply_config(&mut state);
        Ok(())
    }

    /// Applies what a driver has written to configuration space.
    fn apply_config(&self, state: &mut State) {
        let mut control = [0; 2];
        state.config.read(self.offsets.msix + 2, &mut control);
        let control = u16::from_le_bytes(control);
        self.registers.set_control(Control {
            enabled: control & MSIX_ENABLE != 0,
            masked: control & MSIX_FUNCTION_MASK != 0,
            bus_master: state.config.command() & command::BUS_MASTER != 0,
            line_disabled: state.config.command() & command::INTX_DISABLE != 0,
        });
        let wanted = state.config.bar_address(usize::from(capabilities::BAR));
        if wanted == state.placed {
            return;
        }
        if let Some(old) = state.placed.take() {
            self.memory_space.remove(old);
        }
        // If another device has these addresses, this BAR does not respond. (KVM maps guest memory
        // over both.)
        state.placed = wanted.filter(|&base| {
            let registers = Arc::clone(&self.registers) as Arc<dyn BusDevice>;
            let placed = self
                .memory_space
                .insert(base, layout::BAR_LEN_BYTES, registers);
            placed.is_ok()
        });
        self.registers.set_base(state.placed);
    }

    /// The target of an access to the window in configuration space, if it is one (§4.1.4.9):
    /// offset in the BAR and length.
    fn window(&self, state: &State, offset: usize, len: usize) -> Option<(u64, usize)> {
        let data = self.offsets.pci_cfg + cap::PCI_CFG_DATA;
        if offset >= data + 4 || offset + len <= data {
            return None;
        }
        let mut fields = [0; 12];
        let at = self.offsets.pci_cfg + cap::BAR;
        state.config.read(at, &mut fields);
        let field = |at: usize| {
            let i = at - cap::BAR;
            u32::from_le_bytes([fields[i], fields[i + 1], fields[i + 2], fields[i + 3]])
        };
        let (bar, target) = (fields[0], u64::from(field(cap::OFFSET)));
        let length = field(cap::LENGTH) as usize;
        // "The driver MUST NOT write a cap.offset which is not a multiple of cap.length", nor access
        // the data "unless cap.bar, cap.length and cap.offset address cap.length bytes within a BAR
        // range" (§4.1.4.9.2)
        let sane = bar == capabilities::BAR
            && matches!(length, 1 | 2 | 4)
            && target % length as u64 == 0
            && target + length as u64 <= layout::BAR_LEN_BYTES;
        sane.then_some((target, length))
    }
}

impl PciFunction for VirtioPci {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // "Upon detecting driver read access to pci_cfg_data, the device MUST execute a read access
        // ... and store the first cap.length bytes in pci_cfg_data" (§4.1.4.9.1)
        if let Some((target, length)) = self.window(&state, offset, data.len()) {
            let mut value = [0; 4];
            self.registers.read(target, &mut value[..length]);
            let at = self.offsets.pci_cfg + cap::PCI_CFG_DATA;
            state.config.write(at, &value[..length]);
        }
        let interrupting = self.registers.is_interrupting();
        state.config.set_interrupt_status(interrupting);
        state.config.read(offset, data);
    }

    fn config_write(&self, offset: usize, data: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.config.write(offset, data);
        // "Upon detecting driver write access to pci_cfg_data, the device MUST execute a write access
        // ... using the first cap.length bytes from pci_cfg_data" (§4.1.4.9.1)
        if let Some((target, length)) = self.window(&state, offset, data.len()) {
            let mut value = [0; 4];
            let at = self.offsets.pci_cfg + cap::PCI_CFG_DATA;
            state.config.read(at, &mut value);
            self.registers.write(target, &value[..length]);
        }
        self.apply_config(&mut state);
    }
}

#[cfg(test)]
mod intx_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
