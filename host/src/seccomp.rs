// SPDX-License-Identifier: Apache-2.0
//! Installing the filters that a build script compiled with [`compile`].
//!
//! A process keeps one table, `seccomp.json`, in seccompiler's format, with a reason as the
//! "comment" of every rule; each filter in it is for one kind of thread. Both forms are in the
//! binary: the one that kills, and the one that names the system call first (`--seccomp log`).

use ipc::seccomp::Mode;
use seccompiler::sock_filter;
use serde_json::Value;

#[cfg(feature = "seccomp-compiler")]
pub mod compile;
mod report;

pub use report::{call_name, report_violations};

/// The C library that this program is linked with, as rules name it that are for one alone.
pub const LIBC: &str = if cfg!(target_env = "musl") {
    "musl"
} else {
    "gnu"
};

/// Whether release builds of programs linked with `libc` have this rule of a table.
#[must_use]
pub fn concerns(rule: &Value, libc: &str) -> bool {
    !is_for_debug(rule) && rule.get("libc").is_none_or(|whose| whose == libc)
}

/// Whether only debug builds have this rule of a table.
fn is_for_debug(rule: &Value) -> bool {
    rule.get("build").is_some()
}

/// One BPF instruction: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// A compiled filter, in both forms.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// The kind of thread it is for.
    pub name: &'static str,
    /// How many system calls it allows.
    pub calls: usize,
    /// The form for [`Mode::Kill`].
    pub kill: &'static [Instruction],
    /// The form for [`Mode::Trap`].
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

    /// Confines the calling thread, for ever. Sets no_new_privs.
    pub fn install(&self, mode: Mode) -> Result<(), SeccompError> {
        let installed = seccompiler::apply_filter(&self.program(mode));
        installed.map_err(|source| SeccompError {
            name: self.name,
            source,
        })
    }

    /// Confines every thread of the process, for ever. Sets no_new_privs.
    pub fn install_in_all_threads(&self, mode: Mode) -> Result<(), SeccompError> {
        let installed = seccompiler::apply_filter_all_threads(&self.program(mode));
        installed.map_err(|source| SeccompError {
            name: self.name,
            source,
        })
    }
}
