// SPDX-License-Identifier: Apache-2.0
//! For build scripts: compiles a table of filters to Rust constants, so that a process parses and
//! compiles nothing when it starts.

use std::collections::BTreeSet;
use std::env::{VarError, var};
use std::fmt::Write as _;
use std::path::Path;

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::{Map, Value};

use super::{ARCHS, LIBCS, Platform, is_for, is_for_debug, names};

/// A table could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A file could not be read or written.
    #[error("cannot use {0}")]
    File(String, #[source] std::io::Error),
    /// Cargo did not name the target: this is not a build script.
    #[error("cargo does not say for what it builds")]
    Target(#[from] VarError),
    /// The table is not JSON.
    #[error("the table is not JSON")]
    Json(#[from] serde_json::Error),
    /// The table has the wrong shape: the filter's name, and the fault.
    #[error("filter {0}: {1}")]
    Shape(String, &'static str),
    /// seccompiler refused it.
    #[error("cannot compile the table")]
    Compile(#[from] seccompiler::Error),
    /// No filters exist for this architecture.
    #[error("no filters for this architecture")]
    Architecture(#[from] seccompiler::BackendError),
}

/// Compiles `table` for cargo's target and writes one constant of type [`super::Filter`] for each
/// filter to `output`, a file name in cargo's output directory.
///
/// A rule with a `"libc"`, `"musl"` or `"gnu"`, applies only to programs linked with that one: C
/// libraries differ in the calls that a function makes. A rule with an `"arch"`, one of [`ARCHS`] or a
/// list of them, applies only to programs for that one: kernels differ in the calls that they have. A
/// rule with `"build": "debug"` applies only to programs with debug assertions, as cargo's profiles
/// `dev` and `test` make them.
pub fn compile(table: &Path, output: &str) -> Result<(), CompileError> {
    println!("cargo::rerun-if-changed={}", table.display());
    let output = &Path::new(&var("OUT_DIR")?).join(output);
    let named = |path: &Path| path.display().to_string();
    let text = std::fs::read_to_string(table).map_err(|e| CompileError::File(named(table), e))?;
    let (arch, libc) = (var("CARGO_CFG_TARGET_ARCH")?, var("CARGO_CFG_TARGET_ENV")?);
    let platform = Platform {
        arch: &arch,
        libc: &libc,
    };
    let source = to_source(&text, platform, var("PROFILE")? == "debug")?;
    std::fs::write(output, source).map_err(|e| CompileError::File(named(output), e))
}

/// The constants for the filters of a table.
pub fn to_source(
    table: &str,
    platform: Platform<'_>,
    is_debug: bool,
) -> Result<String, CompileError> {
    let mut filters: Map<String, Value> = serde_json::from_str(table)?;
    leave_out_others(&mut filters, platform, is_debug)?;
    let arch = TargetArch::try_from(platform.arch)?;
    let kill = compile_from_json(with_action(&filters, "kill_process")?.as_bytes(), arch)?;
    let trap = compile_from_json(with_action(&filters, "trap")?.as_bytes(), arch)?;
    let mut source = String::new();
    for (name, filter) in &filters {
        let missing = || CompileError::Shape(name.clone(), "was not compiled");
        let kill = instructions(kill.get(name).ok_or_else(missing)?);
        let trap = instructions(trap.get(name).ok_or_else(missing)?);
        let calls = count_calls(name, filter)?;
        let constant = name.to_uppercase();
        let _ = writeln!(
            source,
            "/// The filter of the `{name}` threads.\n\
             pub(crate) const {constant}: host::seccomp::Filter = host::seccomp::Filter {{\n    \
             name: {name:?},\n    calls: {calls},\n    kill: &[{kill}],\n    trap: &[{trap}],\n}};"
        );
    }
    Ok(source)
}

/// Removes the rules for other platforms, and the debug rules unless this is a debug build.
fn leave_out_others(
    filters: &mut Map<String, Value>,
    platform: Platform<'_>,
    is_debug: bool,
) -> Result<(), CompileError> {
    for (name, filter) in filters {
        let shape = |fault| CompileError::Shape(name.clone(), fault);
        let rules = filter["filter"].as_array_mut();
        let rules = rules.ok_or_else(|| shape("has no rules"))?;
        let knows = |key, known: &[&str]| rules.iter().all(|rule| has_known(rule, key, known));
        if !knows("build", &["debug"]) {
            return Err(shape("has a rule for an unknown \"build\""));
        }
        if !knows("libc", &LIBCS) {
            return Err(shape("has a rule for an unknown \"libc\""));
        }
        if !knows("arch", &ARCHS) {
            return Err(shape("has a rule for an unknown \"arch\""));
        }
        rules.retain(|rule| (is_debug || !is_for_debug(rule)) && is_for(rule, platform));
        // seccompiler rejects keys that it does not know.
        for rule in rules.iter_mut().filter_map(Value::as_object_mut) {
            rule.retain(|key, _| !["build", "libc", "arch"].contains(&key.as_str()));
        }
    }
    Ok(())
}

/// Whether everything that a rule names by `key` exists.
fn has_known(rule: &Value, key: &str, known: &[&str]) -> bool {
    rule.get(key).is_none_or(|named| {
        let mut each = names(named).peekable();
        each.peek().is_some() && each.all(|name| name.is_some_and(|name| known.contains(&name)))
    })
}

/// The table with `action` for every call that it does not allow.
fn with_action(filters: &Map<String, Value>, action: &str) -> Result<String, CompileError> {
    let mut filters = filters.clone();
    for (name, filter) in &mut filters {
        let shape = || CompileError::Shape(name.clone(), "is not an object");
        let filter = filter.as_object_mut().ok_or_else(shape)?;
        filter.insert("mismatch_action".into(), action.into());
        filter.insert("match_action".into(), "allow".into());
    }
    Ok(serde_json::to_string(&filters)?)
}

/// How many different system calls a filter allows. Fails on a rule without a reason.
fn count_calls(name: &str, filter: &Value) -> Result<usize, CompileError> {
    let shape = |fault| CompileError::Shape(name.to_string(), fault);
    let rules = filter["filter"]
        .as_array()
        .ok_or_else(|| shape("has no rules"))?;
    let mut calls = BTreeSet::new();
    for rule in rules {
        if rule["comment"].as_str().is_none_or(str::is_empty) {
            return Err(shape("has a rule without a reason in \"comment\""));
        }
        calls.insert(
            rule["syscall"]
                .as_str()
                .ok_or_else(|| shape("has a rule without a call"))?,
        );
    }
    Ok(calls.len())
}

fn instructions(program: &BpfProgram) -> String {
    program.iter().fold(String::new(), |mut text, i| {
        let _ = write!(text, "({},{},{},{}),", i.code, i.jt, i.jf, i.k);
        text
    })
}
