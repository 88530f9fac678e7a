// SPDX-License-Identifier: Apache-2.0
//! What the VM's API speaks: JSON over HTTP on `api.sock` in the VM's state directory.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/vm` | – | [`VmInfo`] |
//! | `GET /v1/stats` | – | [`Stats`] |
//! | `PUT /v1/vm/stop` | [`Stop`] | [`Stopping`] |
//! | `PUT /v1/vm/reboot` | [`Reboot`] | 204 |
//! | `PUT /v1/vm/pause`, `PUT /v1/vm/resume` | – | 204 |
//! | `PUT /v1/vm/devices/ID/restart` | [`Restart`] | 204 |
//! | `PUT /v1/vm/devices/ID/upgrade` | –, and a file descriptor | 204 |
//! | `PUT /v1/vm/devices/ID/link` | [`Link`] | 204 |
//! | `GET /v1/vm/events` | – | [`Events`] |
//! | `GET /v1/vm/console` | – | the last of what the guest has written to its console (application/octet-stream) |
//! | `GET /v1/console` | – | the same, and what it goes on to write, without an end |
//! | `GET /v1/events` | – | [`Event`]s without an end, one on each line (application/x-ndjson): those that are kept, then those to come |
//!
//! The descriptor of an upgrade is that of the program, sent beside any byte of the request
//! (SCM_RIGHTS). It is answered when the new program has taken over or was turned down.
//!
//! Anything else is answered with a 4xx status and a [`Fault`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{PowerButton, VmName, VmSpec};

mod stats;

pub use stats::{DeviceKind, DeviceStats, ExitStats, QueueStats, Stats, Traffic};

/// What the VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// The vmm was started, the guest has not run yet.
    Starting,
    /// The guest runs.
    Running,
    /// No vCPU runs.
    Paused,
    /// The guest was asked to power off, or is being ended.
    Stopping,
}

/// The answer to `GET /v1/vm`: the VM as it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmInfo {
    /// The VM's name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// The spec it was started from.
    pub spec: VmSpec,
    /// The kernel command line in effect.
    pub cmdline: String,
    /// The console's socket, with `console: stdio` and `console: socket`: a stream of the guest's
    /// bytes in both directions, for one client at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_socket: Option<PathBuf>,
    /// The pseudo-terminal of the console, with `console: pty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<String>,
    /// The interrupt controller that the machine has: ioapic, gicv3, gicv2, aia or plic. Left out until
    /// the vmm has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irqchip: Option<String>,
    /// The power button that the machine has: acpi, gpio, virtio or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_button: Option<PowerButton>,
    /// Whether another vmm can take the guest up while it runs (`upgrade VM vmm`).
    #[serde(default)]
    pub vmm_replaceable: bool,
    /// How often the guest has rebooted.
    pub reboots: u32,
    /// The processes of the VM, the jailer first.
    pub processes: Vec<ProcessInfo>,
    /// Its devices, in the order of the guest's PCI slots.
    #[serde(default)]
    pub devices: Vec<DeviceInfo>,
}

/// One device of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceInfo {
    /// Its name.
    pub id: String,
    /// What serves it: `blk disk0`.
    pub role: String,
    /// How it is.
    pub state: DeviceState,
    /// How many of its backends died in this run of the guest, of themselves or because they hung.
    pub restarts: u32,
    /// Of a network card, whether its link is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_up: Option<bool>,
}

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Its backend serves it.
    Serving,
    /// Its backend serves it and waits for the storage or the network.
    Slow,
    /// Its backend is being started or connected.
    Connecting,
    /// Its backend is dead, and what it began is still under way.
    Fencing,
    /// Another backend follows as soon as its storage has opened the image.
    Opening,
    /// Another backend follows in a moment.
    Resting,
    /// It has no backend and gets none until a client asks for it.
    Stalled,
}

/// One process of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessInfo {
    /// `jailer`, `vmm`, or what a backend serves: `blk disk0`.
    pub role: String,
    /// How many processes had its role before it, in this run of the guest, and died of themselves.
    #[serde(default)]
    pub restarts: u32,
    /// Its process id on the host.
    pub pid: i32,
    /// CLOCK_MONOTONIC in ns just before it was started.
    pub spawned_ns: u64,
    /// CLOCK_MONOTONIC in ns at which its first vCPU entered the guest; 0 before that, and for
    /// processes without vCPUs.
    pub first_run_ns: u64,
    /// vCPU exits for port I/O so far.
    pub pio_exits: u64,
    /// vCPU exits for memory-mapped I/O so far.
    pub mmio_exits: u64,
}

impl DeviceState {
    /// As it is in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Slow => "slow",
            Self::Connecting => "connecting",
            Self::Fencing => "fencing",
            Self::Opening => "opening",
            Self::Resting => "resting",
            Self::Stalled => "stalled",
        }
    }
}

/// The body of `PUT /v1/vm/stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// `false` presses the power button, `true` ends the VM at once.
    #[serde(default)]
    pub force: bool,
    /// How long the guest may take to power off, in seconds, 1 to 86400; then the VM is ended at once.
    /// By default what the VM's `stop_timeout` says. If it was asked before, the earlier end holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
}

/// The answer to `PUT /v1/vm/stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stopping {
    /// The power button that was pressed: `acpi`, `gpio` or `virtio`. Left out if the VM is ended at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub button: Option<PowerButton>,
    /// Why the guest does not notice it now, if that is known. Only of `virtio`: what a guest does
    /// with another button cannot be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The body of `PUT /v1/vm/reboot`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Reboot {
    /// `false` presses the power button, and starts the guest anew when it has powered off; `true`
    /// resets it at once.
    #[serde(default)]
    pub force: bool,
    /// How long the guest may take to power off, in seconds, 1 to 86400; then it is reset. By default
    /// what the VM's `stop_timeout` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
}

/// How much of the console's output is kept for `GET /v1/vm/console`, in bytes.
pub const CONSOLE_KEPT_BYTES: usize = 64 << 10;

/// How long the answer to a request for another backend of a device may take, in seconds: as long as
/// all that an upgrade may wait for on its way.
pub const DEVICE_SECONDS_MAX: u64 = 150;

/// The body of `PUT /v1/vm/devices/ID/restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Whether the answer waits until the next backend serves the device.
    #[serde(default)]
    pub wait: bool,
}

/// The body of `PUT /v1/vm/devices/ID/link`, where the device is a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Whether the cable is plugged in.
    pub up: bool,
}

/// The answer to `GET /v1/vm/events`: what has happened lately, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Events {
    /// At most [`EVENTS_MAX`].
    pub events: Vec<Event>,
}

/// So many events are kept.
pub const EVENTS_MAX: usize = 256;

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Counts the events of the VM, from 1.
    pub number: u64,
    /// CLOCK_MONOTONIC in ns at which it happened.
    pub time_ns: u64,
    /// What it is.
    pub kind: EventKind,
    /// The device it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// More about it, in words; may be empty.
    #[serde(default)]
    pub detail: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The guest runs.
    Started,
    /// No vCPU runs.
    Paused,
    /// They run again.
    Resumed,
    /// The guest rebooted: a fresh vmm follows.
    Rebooted,
    /// The fresh vmm could not be started yet, and is tried again: why.
    StartFailed,
    /// A backend was started.
    BackendStarted,
    /// The vmm found it fit; it serves the device.
    BackendConnected,
    /// A backend is gone: how.
    BackendDied,
    /// The host or a control group had no memory left: how many processes of the VM the kernel has
    /// killed. It follows the death of a backend.
    OutOfMemory,
    /// A backend was killed because it did nothing: how that showed.
    BackendHung,
    /// The vmm can do nothing with a backend: why.
    BackendLost,
    /// What a dead backend had begun has ended.
    Fenced,
    /// A backend waits for its storage.
    Slow,
    /// It does not any more.
    SlowNoMore,
    /// The storage failed requests of the guest: how many, and why the last. At most once a minute.
    RequestsFailed,
    /// The tap of a network card was deleted on the host.
    TapGone,
    /// No other backend follows: why.
    Stalled,
    /// A client asked for another backend.
    RestartAsked,
    /// A client asked for another program.
    UpgradeAsked,
    /// The new program serves the device from now on.
    UpgradeDone,
    /// The old one still does: why.
    UpgradeRefused,
    /// The old one does again: why.
    UpgradeRolledBack,
    /// The driver broke the rules of virtio: how.
    GuestFault,
    /// The VM has ended: how, if that was not a power-off.
    Ended,
}

impl EventKind {
    /// As it is in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Rebooted => "rebooted",
            Self::StartFailed => "start-failed",
            Self::BackendStarted => "backend-started",
            Self::BackendConnected => "backend-connected",
            Self::BackendDied => "backend-died",
            Self::OutOfMemory => "out-of-memory",
            Self::BackendHung => "backend-hung",
            Self::BackendLost => "backend-lost",
            Self::Fenced => "fenced",
            Self::Slow => "slow",
            Self::SlowNoMore => "slow-no-more",
            Self::RequestsFailed => "requests-failed",
            Self::TapGone => "tap-gone",
            Self::Stalled => "stalled",
            Self::RestartAsked => "restart-asked",
            Self::UpgradeAsked => "upgrade-asked",
            Self::UpgradeDone => "upgrade-done",
            Self::UpgradeRefused => "upgrade-refused",
            Self::UpgradeRolledBack => "upgrade-rolled-back",
            Self::GuestFault => "guest-fault",
            Self::Ended => "ended",
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fault {
    /// One line: what is wrong, and with which part of the request.
    pub error: String,
}
