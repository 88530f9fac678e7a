// SPDX-License-Identifier: Apache-2.0
//! The protocols between supervisor and vmm and between supervisor and backend: JSON messages over
//! one SOCK_SEQPACKET socket for each pair.
//!
//! Neither end trusts the other: a message has a bounded length, sending never blocks, and the
//! supervisor receives no descriptors (the kernel closes those attached). A vmm exits when the
//! other end of its socket closes.

mod channel;
mod rights;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ControlError};
pub use rights::{receive_with_all, receive_with_one, receive_with_several};

use crate::irqchip::Irqchip;
use crate::slot::DeviceSlot;

/// The longest message in bytes.
pub const MESSAGE_MAX_BYTES: usize = 4096;

/// What the supervisor asks of a vmm. To end a vmm, the supervisor sends SIGKILL instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVmm {
    /// Press the power button of the board, if it has one; before the guest runs, power the machine off.
    PowerButton,
    /// Stop every vCPU; answered with [`FromVmm::Paused`].
    Pause,
    /// Resume the vCPUs; answered with [`FromVmm::Resumed`].
    Resume,
    /// Stop vCPUs and devices and save the state of the machine to the memfd that is attached; answered
    /// with [`FromVmm::Saved`] or [`FromVmm::NotSaved`]. For vmms whose health page is of version 6 or
    /// newer.
    Save,
    /// A request for a device.
    Device(DeviceSlot, ToDevice),
}

/// What the supervisor asks of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDevice {
    /// Use the backend whose stream is attached to this message. The previous one is gone and its
    /// I/O fenced.
    Attach,
    /// The backend is gone, its I/O is fenced, and the supervisor has no other one yet.
    Fenced,
    /// Stop the queues with GET_VRING_BASE; answered with [`DeviceNews::Drained`].
    Drain,
    /// Start the queues again on the connected backend.
    Resume,
    /// Check whether the backend whose stream is attached to this message can become the next one;
    /// answered with [`DeviceNews::Compatible`] or [`DeviceNews::Incompatible`]. The current one
    /// keeps serving.
    Probe,
    /// Use the backend that was probed. The previous one is gone and its I/O fenced.
    Switch,
    /// Network card: set the link up or down.
    Link(bool),
}

/// What a vmm tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVmm {
    /// The machine is complete, but some devices have no backend yet. The vmm handles messages
    /// about devices from now on; the guest starts when each device has a backend.
    Waiting,
    /// Which interrupt controller the machine has; before [`Self::Started`].
    Irqchip(Irqchip),
    /// The guest is about to execute its first instruction.
    Started,
    /// Every vCPU has stopped; or the vmm has taken up the state of another, and every device has a
    /// backend.
    Paused,
    /// The vCPUs run again.
    Resumed,
    /// The machine stands still, and its state is saved.
    Saved,
    /// The state could not be saved: why. The machine stands still until it is told to resume.
    NotSaved(String),
    /// An event of a device.
    Device(DeviceSlot, DeviceNews),
    /// The guest ended; the vmm exits now.
    Ended(Ending),
    /// The vmm cannot continue; it exits now.
    Failed(Failure),
}

/// An event of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceNews {
    /// The device has accepted a backend.
    Connected,
    /// The driver's queues run on its backend.
    Running,
    /// The queues are stopped, as the supervisor asked.
    Drained,
    /// The probed backend can take over.
    Compatible,
    /// The probed backend cannot take over: why.
    Incompatible(String),
    /// Once a second, the outstanding requests of the request queues; once, if there are none.
    Outstanding(Vec<QueueSample>),
    /// The backend misbehaved or is gone: why. The device stalls.
    Lost(String),
    /// The vmm or the kernel failed the device: why. The device stalls.
    Failed(String),
    /// The driver broke the rules of virtio: how.
    Guest(String),
}

/// A queue with requests outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSample {
    /// Its index.
    pub queue: u16,
    /// The available index.
    pub avail: u16,
    /// The used index.
    pub used: u16,
}

/// What the supervisor asks of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBackend {
    /// Every live worker stores this number as its heartbeat in the health page.
    Ping(u32),
    /// Network device: set the link up or down.
    Link(bool),
    /// Power button: it has been pressed so often since the vmm's start.
    Press(u32),
    /// Disk whose record has `awaits_sync`: whether the storage has lost writes that no driver was
    /// told of. For backends whose health page is of version 3 or newer.
    Synced {
        /// It has lost some.
        lost: bool,
    },
}

/// What a backend tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBackend {
    /// The backend is confined and serves its frontend.
    Serving,
    /// The frontend has hung up and nothing is in flight; the backend exits now.
    Hangup,
    /// The backend cannot continue; it exits now.
    Failed(Failure),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It powered off.
    PowerOff,
    /// It asked for a reset.
    Reboot,
    /// Its kernel panicked and reported it.
    Panic,
    /// A triple fault, by which some kernels reset the machine.
    TripleFault,
    /// A vCPU state that KVM cannot run.
    Crash,
}

/// Why a process cannot continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The part of the spec at fault, if any.
    pub about: Option<About>,
    /// One line: what went wrong, with its causes.
    pub reason: String,
}

/// A part of the spec that only the vmm can check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum About {
    /// `kernel`
    Kernel,
    /// `initrd`
    Initrd,
    /// `mem`
    Mem,
    /// `cpus`
    Cpus,
    /// `cpu`
    Cpu,
    /// `irqchip`
    Irqchip,
    /// /dev/kvm
    Kvm,
}
