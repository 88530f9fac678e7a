// SPDX-License-Identifier: Apache-2.0
//! `net-backend`: a network card in a process of its own. See `--help`.

use std::process::ExitCode;

use net_backend::program::NetBackend;

fn main() -> ExitCode {
    backend::program::main::<NetBackend>()
}
