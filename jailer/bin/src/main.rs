// SPDX-License-Identifier: Apache-2.0
//! The jailer: starts one VM and stays until it has ended. This binary hands `supervisor::live`,
//! the entry point of the unprivileged supervisor, to the privileged library, which calls it only
//! in the supervisor's process.

use std::io::Write;
use std::process::ExitCode;

use handover::outcome::Outcome;
use host::heap::Heap;
use ipc::broker::Status;
use jailer::args::{self, Parsed};
use jailer::host::Host;
use jailer::inherited::Inherited;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    host::image::seal();
    let outcome = match args::parse(std::env::args_os().skip(1)) {
        Ok(parsed) => match Inherited::take(&parsed) {
            Ok(inherited) => obey(parsed, inherited),
            Err(error) => Outcome::new(Status::Error, [host::log::chain(&error)]),
        },
        Err(error) => Outcome::new(Status::Usage, [error.to_string()]),
    };
    outcome.print();
    outcome.status.into()
}

/// Runs what the command line asks for.
fn obey(parsed: Parsed, inherited: Inherited) -> Outcome {
    match parsed {
        Parsed::Run(args) => {
            jailer::run(&args, inherited, &Host::of_this_binary(), supervisor::live)
        }
        Parsed::Sweep { name, state_dir } => jailer::sweep(&name, state_dir.as_deref()),
        Parsed::Doctor => {
            let (lines, outcome) =
                jailer::doctor::examine(&Host::of_this_binary(), supervisor::self_test);
            let text = lines.join("\n") + "\n";
            let _ = std::io::stdout().write_all(text.as_bytes());
            outcome
        }
        Parsed::Show(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Outcome::ok()
        }
    }
}
