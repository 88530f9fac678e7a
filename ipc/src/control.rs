// SPDX-License-Identifier: Apache-2.0
//! What the supervisor and a vmm, and the supervisor and a backend, say to each other: JSON messages
//! over one SOCK_SEQPACKET socket for each pair.
//!
//! Neither end trusts the other to be sane: a message has a bounded length, sending never blocks, and
//! the supervisor receives no descriptors (the kernel closes what another end attaches). A vmm whose
//! end of the socket closes ends at once.

mod channel;
mod rights;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ControlError};
pub use rights::{receive_with_one, receive_with_several};

/// The longest message in bytes.
pub const MESSAGE_MAX_BYTES: usize = 4096;

/// What the supervisor asks of a vmm. Ending it is not among them: that is SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVmm {
    /// Press the power button.
    PowerButton,
    /// Stop every vCPU; answered with [`FromVmm::Paused`].
    Pause,
    /// Let them run again; answered with [`FromVmm::Resumed`].
    Resume,
    /// Something about a device: its place in the launch record.
    Device(u8, ToDevice),
}

/// What the supervisor asks of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDevice {
    /// Go on with the backend whose stream comes with this message. The one before is gone and its
    /// I/O fenced.
    Attach,
    /// The backend is gone, its I/O is fenced, and there is no other one for now.
    Fenced,
    /// Stop the queues in an orderly way; answered with [`DeviceNews::Drained`].
    Drain,
    /// Go on with the backend that is connected.
    Resume,
    /// Judge the backend whose stream comes with this message, which may become the next one;
    /// answered with [`DeviceNews::Compatible`] or [`DeviceNews::Incompatible`]. The one that serves goes on.
    Probe,
    /// Go on with the backend that was judged. The one before is gone and its I/O fenced.
    Switch,
    /// Of a network card: the link is up, or down.
    Link(bool),
}

/// What a vmm tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVmm {
    /// The machine is complete, but some of its devices have no backend yet. Messages about devices
    /// are read from now on; the guest starts when each device has a backend.
    Waiting,
    /// The guest is about to execute its first instruction.
    Started,
    /// Every vCPU has stopped.
    Paused,
    /// The vCPUs run again.
    Resumed,
    /// Something happened to a device: its place in the launch record.
    Device(u8, DeviceNews),
    /// The guest ended; the process exits now.
    Ended(Ending),
    /// The vmm cannot go on; the process exits now.
    Failed(Failure),
}

/// What happened to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceNews {
    /// A backend was found fit for it.
    Connected,
    /// The driver's queues run on its backend.
    Running,
    /// Its queues were stopped, as asked.
    Drained,
    /// The backend that was to be judged can take over.
    Compatible,
    /// It cannot: why.
    Incompatible(String),
    /// Once a second, what its request queues have outstanding; without any, once.
    Outstanding(Vec<QueueSample>),
    /// Its backend misbehaved or is gone: why. The device stalls.
    Lost(String),
    /// This process or its kernel failed it: why. The device stalls.
    Failed(String),
    /// Its driver asked for something impossible: what.
    Guest(String),
}

/// A queue on which the driver waits for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSample {
    /// Which one.
    pub queue: u16,
    /// The available index.
    pub avail: u16,
    /// The used index.
    pub used: u16,
}

/// What the supervisor asks of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBackend {
    /// Every worker that lives stores this number as its heartbeat in the health page.
    Ping(u32),
    /// Of a network device: the link is up, or down.
    Link(bool),
    /// Of a disk whose record says that it waits for this: whether the storage has lost writes of which
    /// no driver was told. For backends whose health page is of version 3 or newer.
    Synced {
        /// It has.
        lost: bool,
    },
}

/// What a backend tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBackend {
    /// It is confined and serves its frontend.
    Serving,
    /// The frontend has hung up, and nothing is in flight; the process exits now.
    Hangup,
    /// It cannot go on; the process exits now.
    Failed(Failure),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It powered itself off.
    PowerOff,
    /// It asked for a reset.
    Reboot,
    /// Its kernel panicked, and said so.
    Panic,
    /// The processor gave up: a triple fault, by which some kernels reset the machine.
    TripleFault,
    /// A state that KVM cannot run.
    Crash,
}

/// Why a vmm cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The part of the spec that is at fault, if one is.
    pub about: Option<About>,
    /// One line: what went wrong, with its causes.
    pub reason: String,
}

/// A part of the spec that only the vmm can judge.
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
    /// /dev/kvm
    Kvm,
}
