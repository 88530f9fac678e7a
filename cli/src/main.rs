// SPDX-License-Identifier: Apache-2.0
//! `bulkhead`: the command line. It starts jailers and talks to them over their VMs' sockets. It
//! holds the user's terminal, but nothing that a VM needs to stay alive.

use std::process::ExitCode;

use ::host::heap::Heap;
use clap::Parser;

mod act;
mod args;
mod chunks;
mod client;
mod completions;
mod console;
mod doctor;
mod ended;
mod error;
mod escape;
mod events;
mod help;
mod host;
mod inspect;
mod jailer;
mod logs;
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
mod upgrade;
mod wait;

use args::{Cli, Verb};
use error::{Error, no_json};

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    ::host::image::seal();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return help::show(&error),
    };
    let json = cli.json;
    match dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            error.clean_up();
            match json {
                true => output::complain_json(&error),
                false => output::complain(&error),
            }
            ExitCode::from(error.status())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Error> {
    let (json, state_dir) = (cli.json, cli.state_dir.as_deref());
    let base = || state::base(state_dir);
    match cli.verb {
        Verb::Run(args) => return run::run(*args, state_dir, json),
        Verb::Check { config } => spec_file::check(&config, json)?,
        Verb::Schema { api } => spec_file::schema(api)?,
        Verb::Completions { shell } => completions::completions(shell)?,
        Verb::Man { dir } => completions::man(&dir)?,
        Verb::Top { .. } if json => return Err(no_json("top", "stats --json")),
        Verb::Top { vms } => top::top(&base()?, vms)?,
        Verb::Doctor => return doctor::doctor(json),
        Verb::Inspect { vm } => return inspect::inspect(&base()?, &vm, json),
        Verb::Console { vm, log: true } => console::log(&base()?, &vm, json)?,
        Verb::Console { .. } if json => {
            return Err(no_json("console", "console --log --json"));
        }
        Verb::Console { vm, log: false } => console::attach(&base()?, &vm)?,
        Verb::Wait { vm, goal } => wait::wait(&base()?, &vm, &goal, json)?,
        Verb::Events { vm, follow } => events::events(&base()?, &vm, follow, json)?,
        Verb::Logs { vm, follow } => logs::logs(&base()?, &vm, follow, json)?,
        Verb::Stats(args) => stats::stats(&base()?, args.vm.as_ref(), args.form(json))?,
        Verb::Ps { all } => ps::ps(&base()?, all, json)?,
        Verb::Act(act) => act::act(&base()?, &act, json)?,
    }
    Ok(0)
}
