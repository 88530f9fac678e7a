// SPDX-License-Identifier: Apache-2.0
//! What happens when a guest reboots, and when a process makes a system call outside its filter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the VM does when the guest reboots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnReboot {
    /// A fresh vmm with fresh memory from the same record.
    #[default]
    Restart,
    /// The VM ends, as on power-off.
    Exit,
}

/// What a system call outside the filters does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// It kills the process.
    #[default]
    On,
    /// It kills the process too, after the call's name went to the log.
    Log,
}

impl FromStr for OnReboot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "restart" => Ok(Self::Restart),
            "exit" => Ok(Self::Exit),
            _ => Err("expected restart or exit".into()),
        }
    }
}

impl fmt::Display for OnReboot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Exit => "exit",
        })
    }
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            _ => Err("expected on or log".into()),
        }
    }
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Log => "log",
        })
    }
}
