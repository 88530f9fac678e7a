// SPDX-License-Identifier: Apache-2.0
//! What becomes of a process that leaves its filter.

use serde::{Deserialize, Serialize};

/// What a system call outside the filter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The kernel kills the process.
    Kill,
    /// A handler writes the call's name to the log, then the process ends.
    Trap,
}
