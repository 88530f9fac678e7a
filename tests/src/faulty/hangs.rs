// SPDX-License-Identifier: Apache-2.0
//! `backend-that-hangs`: a disk backend whose requests never reach the kernel: it tries for ever.

use std::process::ExitCode;

use seccompiler::SeccompAction;

/// EAGAIN, by which io_uring says that it is short of something for now.
const AGAIN: u32 = 11;

fn main() -> ExitCode {
    tests::faulty::main(SeccompAction::Errno(AGAIN))
}
