// SPDX-License-Identifier: Apache-2.0
//! What the VM's API speaks: JSON over HTTP on `api.sock` in the VM's state directory.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/vm` | – | [`VmInfo`] |
//! | `PUT /v1/vm/stop` | [`Stop`] | 204 |
//! | `PUT /v1/vm/pause`, `PUT /v1/vm/resume` | – | 204 |
//!
//! Anything else is answered with a 4xx status and a [`Fault`].

use serde::{Deserialize, Serialize};

use crate::{VmName, VmSpec};

/// What the VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct VmInfo {
    /// The VM's name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// The spec it was started from.
    pub spec: VmSpec,
    /// The kernel command line in effect.
    pub cmdline: String,
    /// The pseudo-terminal of the console, with `console: pty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<String>,
    /// How often the guest has rebooted.
    pub reboots: u32,
    /// The processes of the VM, the jailer first.
    pub processes: Vec<ProcessInfo>,
}

/// One process of a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// The body of `PUT /v1/vm/stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// `false` presses the power button, `true` ends the VM at once.
    #[serde(default)]
    pub force: bool,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// One line: what is wrong, and with which part of the request.
    pub error: String,
}
