// SPDX-License-Identifier: Apache-2.0
//! `bulkhead`: the command line. It starts jailers and talks to them over their VMs' sockets. It
//! holds the user's terminal, but nothing that a VM needs to stay alive.

use std::process::ExitCode;

use ::host::heap::Heap;
use clap::Parser;
use spec::api::Stop;

mod args;
mod client;
mod completions;
mod console;
mod error;
mod escape;
mod events;
mod help;
mod host;
mod inspect;
mod jailer;
mod openapi;
mod output;
mod ps;
mod run;
mod signals;
mod spec_file;
mod state;
mod stats;
mod stop;
mod table;
mod terminal;
mod top;

use args::{Cli, LinkState, Verb};
use error::Error;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    ::host::image::seal();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return help::show(&error),
    };
    match dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            error.clean_up();
            output::complain(&error);
            ExitCode::from(error.status())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Error> {
    let state_dir = cli.state_dir.as_deref();
    let base = || state::base(state_dir);
    match cli.verb {
        Verb::Run(args) => return run::run(*args, state_dir),
        Verb::Check { config } => spec_file::check(&config)?,
        Verb::Schema { api } => spec_file::schema(api)?,
        Verb::Completions { shell } => completions::completions(shell)?,
        Verb::Man { dir } => completions::man(&dir)?,
        Verb::Top { vms } => top::top(&base()?, vms)?,
        Verb::Doctor => return Ok(jailer::doctor()),
        Verb::Inspect { vm, json } => inspect::inspect(&base()?, &vm, json)?,
        Verb::Console { vm } => console::attach(&base()?, &vm)?,
        Verb::Stop {
            vm,
            stop_timeout,
            force,
            json,
        } => {
            let stop = Stop {
                force,
                stop_timeout,
            };
            stop::stop(&base()?, &vm, stop, json)?;
        }
        Verb::Pause { vm } => client::put(&base()?, &vm, "/v1/vm/pause")?,
        Verb::Resume { vm } => client::put(&base()?, &vm, "/v1/vm/resume")?,
        Verb::Restart { vm, device, wait } => client::restart(&base()?, &vm, &device, wait)?,
        Verb::Link { vm, nic, state } => {
            client::link(&base()?, &vm, &nic, state == LinkState::Up)?;
        }
        Verb::Upgrade { vm, device, binary } => {
            client::upgrade(&base()?, &vm, &device, &binary)?;
        }
        Verb::Events { vm, follow, json } => events::events(&base()?, &vm, follow, json)?,
        Verb::Stats(args) => stats::stats(&base()?, args.vm.as_ref(), args.form())?,
        Verb::Ps { json } => ps::ps(&base()?, json)?,
    }
    Ok(0)
}
