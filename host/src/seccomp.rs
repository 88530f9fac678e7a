// SPDX-License-Identifier: Apache-2.0
//! Installing the filters that a build script compiled with `compile`.
//!
//! Each program has one table, `seccomp.json`, in seccompiler's format, with a reason as the
//! "comment" of every rule; each filter in it is for one kind of thread. Both modes are in the
//! binary: the one that kills, and the one that logs the system call first (`--seccomp log`).

use ipc::seccomp::Mode;
use seccompiler::sock_filter;
use serde_json::Value;

#[cfg(feature = "seccomp-compiler")]
pub mod compile;
mod report;

pub use report::{call_name, report_violations};

/// The C library of this program, as the rules of one C library name it.
pub const LIBC: &str = if cfg!(target_env = "musl") {
    "musl"
} else {
    "gnu"
};

/// Whether this rule applies to release builds of programs linked with `libc`.
#[must_use]
pub fn concerns(rule: &Value, libc: &str) -> bool {
    !is_for_debug(rule) && rule.get("libc").is_none_or(|whose| whose == libc)
}

/// Whether this rule applies to debug builds only.
fn is_for_debug(rule: &Value) -> bool {
    rule.get("build").is_some()
}

/// One BPF instruction: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// A compiled filter, for both modes.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// The kind of thread.
    pub name: &'static str,
    /// How many system calls the filter allows.
    pub calls: usize,
    /// For [`Mode::Kill`].
    pub kill: &'static [Instruction],
    /// For [`Mode::Trap`].
    pub trap: &'static [Instruction],
}

/// A filter could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the seccomp filter {name}")]
pub struct SeccompError {
    name: &'static str,
    #[source]
    source: seccompiler::Error,
}

impl Filter {
    fn program(&self, mode: Mode) -> Vec<sock_filter> {
        let instructions = match mode {
            Mode::Kill => self.kill,
            Mode::Trap => self.trap,
        };
        instructions
            .iter()
            .map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k })
            .collect()
    }

    /// Installs the filter in the calling thread, irrevocably. Sets no_new_privs.
    pub fn install(&self, mode: Mode) -> Result<(), SeccompError> {
        let installed = seccompiler::apply_filter(&self.program(mode));
        installed.map_err(|source| SeccompError {
            name: self.name,
            source,
        })
    }

    /// Installs the filter in every thread of the process, irrevocably. Sets no_new_privs.
    pub fn install_in_all_threads(&self, mode: Mode) -> Result<(), SeccompError> {
        let installed = seccompiler::apply_filter_all_threads(&self.program(mode));
        installed.map_err(|source| SeccompError {
            name: self.name,
            source,
        })
    }
}
