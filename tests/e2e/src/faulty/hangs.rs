// SPDX-License-Identifier: Apache-2.0
//! `backend-that-hangs`: a backend whose requests never reach the kernel: it tries for ever. To a
//! NIC its tap looks empty, and full.

use std::process::ExitCode;

use seccompiler::SeccompAction;

/// EAGAIN, by which io_uring says that it is short of something for now.
const AGAIN: u32 = 11;

fn main() -> ExitCode {
    e2e::faulty::main(SeccompAction::Errno(AGAIN))
}
