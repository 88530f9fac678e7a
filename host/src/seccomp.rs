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

/// The architectures that rules can be for.
pub const ARCHS: [&str; 3] = ["x86_64", "aarch64", "riscv64"];
/// The C libraries that rules can be for.
pub const LIBCS: [&str; 2] = ["musl", "gnu"];

/// What a program is built for, in the words of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform<'a> {
    /// One of [`ARCHS`].
    pub arch: &'a str,
    /// One of [`LIBCS`].
    pub libc: &'a str,
}

/// What this program is built for.
pub const OWN: Platform<'static> = Platform {
    arch: std::env::consts::ARCH,
    libc: if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    },
};

/// Whether this rule applies to release builds for `platform`.
#[must_use]
pub fn concerns(rule: &Value, platform: Platform<'_>) -> bool {
    !is_for_debug(rule) && is_for(rule, platform)
}

/// Whether this rule applies to builds for `platform`.
fn is_for(rule: &Value, platform: Platform<'_>) -> bool {
    let allows = |key, own| {
        rule.get(key)
            .is_none_or(|named| names(named).any(|name| name == Some(own)))
    };
    allows("libc", platform.libc) && allows("arch", platform.arch)
}

/// What a rule names: one, or a list. What is no text is [`None`].
fn names(named: &Value) -> impl Iterator<Item = Option<&str>> {
    let list = named
        .as_array()
        .map_or(std::slice::from_ref(named), Vec::as_slice);
    list.iter().map(Value::as_str)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ARM: Platform<'_> = Platform {
        arch: "aarch64",
        libc: "musl",
    };

    #[test]
    fn rule_for_another_architecture_is_left_out() {
        assert!(concerns(&json!({}), ARM));
        assert!(concerns(&json!({"arch": "aarch64"}), ARM));
        assert!(concerns(&json!({"arch": ["riscv64", "aarch64"]}), ARM));
        assert!(!concerns(&json!({"arch": "x86_64"}), ARM));
        assert!(!concerns(&json!({"arch": ["x86_64", "riscv64"]}), ARM));
    }

    #[test]
    fn rule_must_be_for_both_architecture_and_c_library() {
        assert!(concerns(&json!({"arch": "aarch64", "libc": "musl"}), ARM));
        assert!(!concerns(&json!({"arch": "aarch64", "libc": "gnu"}), ARM));
        assert!(!concerns(&json!({"arch": "x86_64", "libc": "musl"}), ARM));
    }
}
