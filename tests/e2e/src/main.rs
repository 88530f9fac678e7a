// SPDX-License-Identifier: Apache-2.0
//! `e2e`: runs end-to-end cases, the scripted demo and measurements against the real binaries.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use e2e::cases::{self, Group};
use e2e::context::Places;
use e2e::machine::Machine;
use e2e::runner::{self, Selection};
use e2e::{bench, demo};
use host::heap::Heap;

#[derive(Parser)]
#[command(about = "End-to-end cases, demo and measurements of Bulkhead")]
struct Cli {
    #[command(flatten)]
    places: PlaceFlags,
    #[command(subcommand)]
    action: Action,
}

#[derive(Args)]
struct PlaceFlags {
    /// The directory with bulkhead, jailer and vmm; by default this program's own
    #[arg(long, global = true, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// The directory with guest kernels and initrds
    #[arg(long, global = true, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// The directory with bulkhead and all it starts of another version
    #[arg(long, global = true, value_name = "DIR")]
    previous: Option<PathBuf>,
    /// Have chance begin with this number, which an earlier run said
    #[arg(long, global = true, value_name = "N")]
    seed: Option<u64>,
    /// What a VM is here; by default the first machine of this program's architecture
    #[arg(long, global = true)]
    machine: Option<Machine>,
}

#[derive(Subcommand)]
enum Action {
    /// Run cases; closes with `N passed, N failed, N skipped`
    Test {
        /// Only cases of one group
        #[arg(long)]
        group: Option<GroupName>,
        /// The long ones too
        #[arg(long)]
        soak: bool,
        /// Without those to which the interrupt controller makes no difference
        #[arg(long)]
        brief: bool,
        /// Say the names and run nothing
        #[arg(long)]
        list: bool,
        /// Only this case and those behind it
        #[arg(long, value_name = "CASE")]
        from: Option<String>,
        #[arg(long, hide = true)]
        for_machine: bool,
        #[arg(long, hide = true)]
        emulated: bool,
        /// Only cases whose name contains this
        filter: Option<String>,
    },
    /// Run one case in this process
    #[command(hide = true)]
    One {
        /// Its full name
        name: String,
    },
    /// Keep this host's KVM from patching itself, until killed
    #[command(hide = true)]
    HoldKvm,
    /// Run a command without io_uring
    #[command(hide = true)]
    WithoutIoUring {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Boot a stock guest with a disk and a NIC, kill its backends, power it off
    Demo {
        /// Give its console to this terminal instead
        #[arg(long)]
        shell: bool,
    },
    /// Measure something
    Bench {
        /// What
        name: bench::Name,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum GroupName {
    /// Needs no stock guest: runs on any /dev/kvm
    Native,
    /// Boots stock guests
    Guest,
}

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let places = cli.places.resolve()?;
    match cli.action {
        Action::Test {
            group,
            soak,
            brief,
            list,
            from,
            for_machine,
            emulated,
            filter,
        } => {
            let group = group.map(Group::from);
            let selection = Selection {
                group,
                soak,
                brief,
                previous: places.previous.is_some(),
                filter,
                from,
                for_machine,
                emulated,
            };
            if list {
                list_cases(&selection);
                return Ok(ExitCode::SUCCESS);
            }
            runner::run(&cases::all(), &selection, &places)
        }
        Action::One { name } => {
            let cases = cases::all();
            let case = cases.iter().find(|case| case.name == name);
            Ok(runner::run_here(
                case.context("there is no case of this name")?,
                &places,
            ))
        }
        Action::HoldKvm => e2e::arch::hold_kvm().map(|()| ExitCode::SUCCESS),
        Action::WithoutIoUring { command } => e2e::without_io_uring::run(&command),
        Action::Demo { shell: true } => demo::shell(places),
        Action::Demo { shell: false } => demo::run(places),
        Action::Bench { name } => bench::run(name, places),
    }
}

fn list_cases(selection: &Selection) {
    for case in selection.of(&cases::all()) {
        println!("{}", case.name);
    }
}

impl PlaceFlags {
    fn resolve(self) -> Result<Places> {
        let bin = match self.bin {
            Some(bin) => bin,
            None => {
                let own = std::env::current_exe().context("this program's own path")?;
                own.parent()
                    .context("this program has no directory")?
                    .to_owned()
            }
        };
        Ok(Places {
            bin,
            assets: self.assets,
            previous: self.previous,
            seed: self.seed,
            machine: self.machine.unwrap_or_else(Machine::own),
        })
    }
}

impl From<GroupName> for Group {
    fn from(name: GroupName) -> Self {
        match name {
            GroupName::Native => Self::Native,
            GroupName::Guest => Self::Guest,
        }
    }
}
