// SPDX-License-Identifier: Apache-2.0
//! Why a VM has ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a VM has ended. The names are those of the record that is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The guest powered off.
    PowerOff,
    /// The guest reset itself, and that ends the VM.
    Reboot,
    /// The guest's kernel panicked.
    Panic,
    /// The guest crashed: a triple fault, or a state that KVM cannot run.
    Crash,
    /// The guest reset itself again and again.
    RebootStorm,
    /// A client ended it at once.
    Force,
    /// The guest did not power off in time.
    Timeout,
    /// A signal ended it at once.
    Signal,
    /// A process of the VM was killed because the VM's memory had reached its limit.
    Limit,
    /// Something of the host or of our own failed.
    HostError,
    /// The jailer was killed, and the VM with it.
    JailerLost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power-off",
            Self::Reboot => "reboot",
            Self::Panic => "panic",
            Self::Crash => "crash",
            Self::RebootStorm => "reboot-storm",
            Self::Force => "force",
            Self::Timeout => "timeout",
            Self::Signal => "signal",
            Self::Limit => "limit",
            Self::HostError => "host-error",
            Self::JailerLost => "jailer-lost",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_shown_as_it_is_recorded() {
        for reason in [
            Reason::PowerOff,
            Reason::Reboot,
            Reason::Panic,
            Reason::Crash,
            Reason::RebootStorm,
            Reason::Force,
            Reason::Timeout,
            Reason::Signal,
            Reason::Limit,
            Reason::HostError,
            Reason::JailerLost,
        ] {
            let recorded = serde_json::to_string(&reason).unwrap();
            assert_eq!(recorded, format!("\"{reason}\""));
        }
    }
}
