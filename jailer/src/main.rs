// SPDX-License-Identifier: Apache-2.0
//! The jailer: starts one VM and stays until it has ended.

use std::io::Write;
use std::process::ExitCode;

use jailer::args::{self, Parsed};
use jailer::host::Host;
use jailer::outcome::{Outcome, Status};
use launch::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    launch::image::seal();
    let outcome = match args::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(args)) => jailer::run(&args, &Host::of_this_binary()),
        Ok(Parsed::Sweep { name, state_dir }) => jailer::sweep(&name, state_dir.as_deref()),
        Ok(Parsed::Doctor) => {
            let (lines, outcome) = jailer::doctor::examine(&Host::of_this_binary());
            let text = lines.join("\n") + "\n";
            let _ = std::io::stdout().write_all(text.as_bytes());
            outcome
        }
        Ok(Parsed::Show(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(error) => Outcome::new(Status::Usage, [error]),
    };
    outcome.print();
    outcome.status.into()
}
