// SPDX-License-Identifier: Apache-2.0
//! `hostile`: the neighbours that Bulkhead has to survive. Each command is one kind of malice, tells what
//! it tried and what came of it in one line, and fails when somebody else came to harm.

mod command;
mod machine;
mod message;
mod process;

use std::process::ExitCode;

use clap::Parser;

use command::Command;

/// The neighbours that Bulkhead has to survive.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Options::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::FAILURE
        }
    }
}
