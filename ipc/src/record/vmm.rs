// SPDX-License-Identifier: Apache-2.0
//! The launch record of a vmm.

use serde::{Deserialize, Serialize};

use super::{READABLE_SINCE, Record};
use crate::cpu_model::CpuModel;
use crate::cpu_set::CpuSet;
use crate::irqchip::Irqchip;
use crate::log_format::LogFormat;
use crate::seccomp::Mode;
use crate::slot::DeviceSlot;

/// The version of the machine that this build makes: what a guest sees of it, which the golden files
/// in `vmm/src/arch/golden` tell. A change of what is there is a new version.
pub const MACHINE: u32 = 1;

/// The launch record of a vmm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmRecord {
    /// [`VERSION`](super::VERSION) of the build that wrote it.
    pub version: u32,
    /// The version of the machine; a vmm refuses one that it does not know.
    #[serde(default = "first_machine")]
    pub machine: u32,
    /// The VM's name, for the log.
    pub vm_id: String,
    /// The number of vCPUs, 1 to 254.
    pub cpus: u8,
    /// The size of guest memory in bytes, that of the memfd at [`crate::fd::vmm::GUEST_RAM`].
    pub mem_bytes: u64,
    /// The pages guest memory is made of.
    pub pages: Pages,
    /// Whether all of guest memory is allocated before the guest starts.
    pub prefault: bool,
    /// The kernel command line.
    pub cmdline: String,
    /// Whether [`crate::fd::vmm::INITRD`] is there.
    pub initrd: bool,
    /// The interrupt controller; `None` for the best that the host has.
    #[serde(default)]
    pub irqchip: Option<Irqchip>,
    /// Whether the board has a power button, where the architecture knows one.
    #[serde(default = "has_button")]
    pub board_button: bool,
    /// What happens on a system call outside the filters.
    pub seccomp: Mode,
    /// The processors that each vCPU runs on; left out, or empty, for those of the vmm.
    #[serde(default)]
    pub vcpu_affinity: Vec<CpuSet>,
    /// The model of the processor, on x86_64.
    #[serde(default)]
    pub cpu: CpuModel,
    /// How it writes to the log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// A guest has run in this VM before and has rebooted: the vmm waits for its backends without a
    /// time limit. At a VM's first start it waits only briefly.
    #[serde(default)]
    pub rebooted: bool,
    /// The vmm takes up the state at [`crate::fd::vmm::STATE`], which the one before has saved, instead of
    /// loading a kernel.
    #[serde(default)]
    pub restores: bool,
    /// The virtio devices, each in a slot of its own.
    #[serde(default)]
    pub devices: Vec<DeviceRecord>,
}

/// What a record without the field means.
fn first_machine() -> u32 {
    1
}

/// What a record without the field means.
fn has_button() -> bool {
    true
}

/// A virtio device whose backend is another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its place in the VM.
    pub slot: DeviceSlot,
    /// Its name, for the log.
    pub id: String,
    /// Its type.
    pub kind: DeviceKind,
    /// The number of its virtqueues.
    pub queues: u16,
    /// The largest size of each virtqueue, a power of two.
    pub queue_size: u16,
    /// Whether its backend is an external program.
    pub foreign: bool,
    /// Whether its backends inherit an in-flight region.
    pub inflight: bool,
}

/// The types of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Disk.
    Block,
    /// Network card.
    Net(NicRecord),
    /// Entropy source.
    Rng,
    /// Socket.
    Vsock,
    /// File system: its tag.
    Fs(String),
    /// Keyboard with one key, the power button.
    PowerButton,
    /// Any other type: its virtio device id. It has no configuration space.
    Other(u8),
}

/// A network card's configuration while it has no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRecord {
    /// The MAC address, if the backend reports none.
    pub mac: [u8; 6],
    /// Whether the link is up.
    pub link_up: bool,
}

/// The pages guest memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// Base pages.
    Base,
    /// Base pages that the kernel may merge into huge ones.
    Transparent,
    /// hugetlb pages of 2 MiB.
    Huge2M,
    /// hugetlb pages of 1 GiB.
    Huge1G,
}

/// The version of the first build that takes up a state.
const RESTORES_SINCE: u32 = 3;

impl Record for VmmRecord {
    fn readable_since(&self) -> u32 {
        // An older vmm would boot another guest, over the memory of this one.
        match self.restores {
            true => RESTORES_SINCE,
            false => READABLE_SINCE,
        }
    }
}
