// SPDX-License-Identifier: Apache-2.0
//! `backend-that-loops`: a backend whose thread, at its first I/O, turns in circles for ever.
#![allow(unsafe_code)] // handlers of signals are

use std::process::ExitCode;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use seccompiler::SeccompAction;

fn main() -> ExitCode {
    let circles = SigAction::new(
        SigHandler::Handler(turn_in_circles),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler touches nothing at all.
    match unsafe { sigaction(Signal::SIGSYS, &circles) } {
        Ok(_) => e2e::faulty::main(SeccompAction::Trap),
        Err(error) => {
            eprintln!("backend-that-loops: {error}");
            ExitCode::FAILURE
        }
    }
}

extern "C" fn turn_in_circles(_: libc::c_int) {
    loop {
        std::hint::spin_loop();
    }
}
