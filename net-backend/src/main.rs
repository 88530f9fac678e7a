// SPDX-License-Identifier: Apache-2.0
//! `net-backend`: a network card in a process of its own. See `--help`.

mod alone;
mod launched;
mod options;

use std::process::ExitCode;

use options::Wanted;

fn main() -> ExitCode {
    backend::allocator::keep_simple();
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    // The supervisor passes exactly this; nobody else has what it needs.
    let outcome = if args == ["--launched"] {
        launched::run()
    } else {
        match options::parse(args) {
            Ok(Wanted::Serve(options)) => alone::run(*options),
            Ok(Wanted::Print(text)) => {
                print!("{text}");
                return ExitCode::SUCCESS;
            }
            Err(reason) => {
                eprintln!("net-backend: {reason}; see --help");
                return ExitCode::from(2);
            }
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
