// SPDX-License-Identifier: Apache-2.0
//! Where a tap comes from: its name, or descriptors that the starter of the VM has open.

use std::fmt;
use std::path::PathBuf;

use super::NetSpec;
use super::check::{PAIRS_MAX, TapName};
use crate::SpecError;

/// Descriptors below this one are standard input, output and error.
const STANDARD: i32 = 3;

/// Where a tap comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// The jailer opens or makes the tap of this name.
    Named(TapName),
    /// The jailer inherits these descriptors, one for each pair of queues; none is a standard one.
    Inherited(Vec<i32>),
}

impl TapSource {
    /// Checks the descriptors of an inherited tap, which is as its maker has set it up.
    pub(super) fn inherited(spec: &NetSpec) -> Result<Self, SpecError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        for (field, value) in [
            ("net.mtu", spec.mtu.map(|mtu| mtu.to_string())),
            ("net.bridge", spec.bridge.clone()),
            ("net.up", path(&spec.up)),
            ("net.down", path(&spec.down)),
        ] {
            if let Some(value) = value {
                let reason = "is not for fd: the program that opens the tap sets it up";
                return Err(SpecError::new(field, value, reason));
            }
        }
        let count = u32::try_from(spec.fd.len()).unwrap_or(u32::MAX);
        if count > PAIRS_MAX {
            let (value, reason) = (
                format!("{count} descriptors"),
                format!("are too many: a card has at most {PAIRS_MAX}"),
            );
            return Err(SpecError::new("net.fd", value, reason));
        }
        if spec.queues != NetSpec::default().queues && spec.queues != count {
            let reason = format!("must be the number of descriptors, {count}: leave it out");
            return Err(SpecError::new("net.queues", spec.queues, reason));
        }
        if let Some(fd) = spec.fd.iter().find(|fd| **fd < STANDARD) {
            let reason = "must be the number of a file descriptor, 3 or more";
            return Err(SpecError::new("net.fd", fd, reason));
        }
        Ok(Self::Inherited(spec.fd.clone()))
    }

    /// What is wrong with the tap, under the name that the user gave it.
    pub fn fault(&self, reason: impl fmt::Display) -> SpecError {
        match self {
            Self::Named(name) => SpecError::new("net.tap", name, reason),
            Self::Inherited(fds) => {
                let numbers: Vec<_> = fds.iter().map(i32::to_string).collect();
                SpecError::new("net.fd", numbers.join(","), reason)
            }
        }
    }
}
