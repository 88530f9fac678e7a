// SPDX-License-Identifier: Apache-2.0
//! What happens on a system call outside a seccomp filter.

use serde::{Deserialize, Serialize};

/// What happens on a system call outside a seccomp filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The kernel kills the process.
    Kill,
    /// A handler logs the call's name, then the process exits.
    Trap,
}
