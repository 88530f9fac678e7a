// SPDX-License-Identifier: Apache-2.0
//! Compiles the seccomp filters.

use std::path::Path;

use host::seccomp::compile::{CompileError, compile};

fn main() -> Result<(), CompileError> {
    compile(Path::new("seccomp.json"), "seccomp.rs")
}
