// SPDX-License-Identifier: Apache-2.0
//! `blk-backend`: a disk in a process of its own. See `--help`.

mod allocator;
mod alone;
mod health;
mod launched;
mod options;
mod pin;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    allocator::keep_simple();
    // The supervisor passes exactly this; nobody else has what it needs.
    let outcome = if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "--launched")
    {
        launched::run()
    } else {
        let options = options::Options::parse();
        if options.print_capabilities {
            println!("{}", options::CAPABILITIES);
            return ExitCode::SUCCESS;
        }
        alone::run(&options)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
