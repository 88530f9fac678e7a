// SPDX-License-Identifier: Apache-2.0
//! The PCI bus of the machine: the host bridge, and the virtio devices in their slots.

use std::sync::Arc;

use devices::bus::Bus;
use devices::interrupt::CallWatcher;
use devices::pci::bar::Windows;
use devices::pci::host_bridge::HostBridge;
use devices::pci::root::{PciRoot, Slot, SlotTaken};
use devices::virtio::device::VirtioDevice;
use devices::virtio::transport::pci::function::{FunctionError, PciContext, VirtioPci};
use devices::virtio::transport::pci::intx::Intx;
use devices::virtio::transport::pci::vector_count;
use devices::virtio::vhost_user::device::VhostUserDevice;
use ipc::slot::DeviceSlot;

use crate::arch::Irqchip;
use crate::kvm::Vm;
use crate::machine::PciWindows;
use crate::memory::Region;
use crate::saver::Functions;

/// Why the bus cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// The bus has no such slot.
    #[error("the PCI bus has no device number {0}")]
    NoSuchSlot(DeviceSlot),
    /// Two devices claim the same slot.
    #[error("cannot add a PCI device")]
    Slot(#[from] SlotTaken),
    /// The BAR windows are invalid.
    #[error("cannot make windows for PCI devices")]
    Windows(#[source] vm_allocator::Error),
    /// A virtio device cannot become a PCI function.
    #[error("cannot put a virtio device on the PCI bus")]
    Function(#[from] FunctionError),
}

/// Makes the bus. The devices' BARs are in `memory_space`, inside `windows`; `watcher` waits for the
/// queues of drivers that take no messages.
pub fn bus(
    vm: &Arc<Vm>,
    irqchip: &Irqchip,
    watcher: &Arc<dyn CallWatcher>,
    memory_space: &Arc<Bus>,
    windows: PciWindows,
    devices: Vec<(DeviceSlot, Arc<VhostUserDevice>)>,
) -> Result<(PciRoot, Functions), PciError> {
    let PciWindows { bars_32, bars_64 } = windows;
    let range = |window: Region| (window.base, window.len_bytes);
    let mut windows = Windows::new(range(bars_32), range(bars_64)).map_err(PciError::Windows)?;
    let root = PciRoot::default();
    root.insert(Slot::HOST_BRIDGE, Arc::new(HostBridge::default()))?;
    let mut functions = Functions::new();
    for (slot, device) in devices {
        let slot = Slot::new(slot.number()).ok_or(PciError::NoSuchSlot(slot))?;
        let vectors = vector_count(device.queue_max_sizes().len());
        let context = PciContext {
            memory_space: Arc::clone(memory_space),
            doorbells: Arc::clone(vm) as _,
            intx: Some(Intx {
                line: irqchip.pci_line(slot),
                watcher: Arc::clone(watcher),
            }),
            vectors: irqchip.vectors(slot, u16::try_from(vectors).unwrap_or(u16::MAX)),
        };
        let function = Arc::new(VirtioPci::new(device, context, &mut windows)?);
        root.insert(slot, Arc::clone(&function) as _)?;
        functions.push((slot, function));
    }
    Ok((root, functions))
}
