// SPDX-License-Identifier: Apache-2.0
//! `input-backend`: a power button in a process of its own. See `--help`.

use std::process::ExitCode;

use host::heap::Heap;
use input_backend::program::InputBackend;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    device_backend::program::main::<InputBackend>()
}
