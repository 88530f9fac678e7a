// SPDX-License-Identifier: Apache-2.0
//! `net-backend`: a NIC in a process of its own. See `--help`.

use std::process::ExitCode;

use host::heap::Heap;
use net_backend::program::NetBackend;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    device_backend::program::main::<NetBackend>()
}
