// SPDX-License-Identifier: Apache-2.0
//! `blk-backend`: a vhost-user disk backend. See `--help`.

use std::process::ExitCode;

use blk_backend::program::BlkBackend;
use host::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    device_backend::program::main::<BlkBackend>()
}
