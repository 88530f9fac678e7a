// SPDX-License-Identifier: Apache-2.0
//! The launch record of a power button's backend.

use serde::{Deserialize, Serialize};

use super::{BackendRecord, Record};
use crate::log_format::LogFormat;
use crate::seccomp::Mode;

/// The launch record of a power button's backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// [`VERSION`](super::VERSION) of the build that wrote it.
    pub version: u32,
    /// The VM's name, for the log.
    pub vm_id: String,
    /// The device's name, for the log.
    pub device_id: String,
    /// How often the button has been pressed since the vmm's start.
    pub pressed: u32,
    /// What happens on a system call outside the filter.
    pub seccomp: Mode,
    /// How it writes to the log.
    #[serde(default)]
    pub log_format: LogFormat,
}

impl Record for InputRecord {}

impl BackendRecord for InputRecord {
    fn vm_id(&self) -> &str {
        &self.vm_id
    }

    fn device_id(&self) -> &str {
        &self.device_id
    }

    fn log_format(&self) -> LogFormat {
        self.log_format
    }
}
