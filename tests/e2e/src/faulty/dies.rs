// SPDX-License-Identifier: Apache-2.0
//! `backend-that-dies`: a backend that is killed when it begins its first request, or looks for its
//! first frame.

use std::process::ExitCode;

use seccompiler::SeccompAction;

fn main() -> ExitCode {
    e2e::faulty::main(SeccompAction::KillProcess)
}
