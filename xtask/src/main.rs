// SPDX-License-Identifier: Apache-2.0
//! The project's tasks: demo, test, fuzz, lab, bench, dist.
//!
//! Everything a fresh Debian 12 machine with a Rust toolchain, gcc and git lacks is installed or
//! named by these commands; what they download or make is kept in the user's cache directory.

mod apt;
mod arch;
mod bench;
mod bootstrap;
mod cache;
mod cluster;
mod command;
mod compile;
mod cpio;
mod deb;
mod demo;
mod dist;
#[cfg(test)]
mod doc_check;
mod fuzz;
mod guests;
mod host;
mod lab;
mod mutants;
mod packages;
mod previous;
mod progress;
mod scratch;
mod seccomp;
mod signals;
mod space;
mod spike;
mod target;
mod terminal;
mod test;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use arch::Arch;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's tasks"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, boot a stock Debian guest, show its processes, kill and upgrade them under load, and
    /// look for what is left: every step is checked
    Demo {
        /// Give the guest's console to this terminal instead
        #[arg(long)]
        shell: bool,
        #[command(flatten)]
        place: PlaceFlags,
    },
    /// Style, unit tests, process tests, end-to-end tests; closes with `N passed, N failed, N skipped`
    Test(TestFlags),
    /// Look for inputs that break what reads them; goes on from what earlier runs reached
    Fuzz {
        /// Only this target
        target: Option<String>,
        /// How long each target is run
        #[arg(long, default_value_t = 1)]
        minutes: u32,
    },
    /// Change the code that hostile input reaches, one place at a time: some test must notice each
    Mutants {
        /// Only this module of those in xtask/assets/mutants.json
        module: Option<String>,
    },
    /// The inner host: a software-emulated machine with a real /dev/kvm
    Lab {
        #[command(subcommand)]
        action: LabAction,
    },
    /// Measure something; the last line is `RESULT name=value …`
    Bench {
        /// What to measure
        name: bench::Name,
        #[command(flatten)]
        place: PlaceFlags,
    },
    /// How many system calls each filter allows
    Seccomp {
        /// Run the tests under strace, and list the rules that none of them needs; takes root
        #[arg(long)]
        unused: bool,
    },
    /// The process that is the network and the power of a cluster's hosts; `test cluster` starts it
    #[command(hide = true)]
    ClusterInside {
        /// The case's directory
        case: PathBuf,
    },
    /// Static release binaries, man pages and completions in dist/, to be copied to /usr/local, and
    /// Debian packages of them and of the agent for Pacemaker
    Dist {
        /// What they are for [default: this machine's architecture]
        #[arg(long)]
        arch: Option<Arch>,
    },
}

/// Which inner host.
#[derive(Args, Clone)]
struct InnerFlags {
    /// The architecture of the guests and of what runs them [default: this machine's]
    #[arg(long)]
    arch: Option<Arch>,
    /// The inner host, in the lab: svm; gicv3 or gicv2; aia or plic [default: the first of its
    /// architecture]
    #[arg(long)]
    host: Option<String>,
}

impl InnerFlags {
    fn host(&self) -> anyhow::Result<&'static lab::InnerHost> {
        let arch = self.arch.unwrap_or_else(Arch::own);
        lab::find(arch, self.host.as_deref())
    }
}

/// Where guests run.
#[derive(Args, Clone)]
struct PlaceFlags {
    /// Run guests in the lab, whatever this machine can do
    #[arg(long, conflicts_with = "native")]
    lab: bool,
    /// Run guests on this machine's /dev/kvm
    #[arg(long)]
    native: bool,
    #[command(flatten)]
    inner: InnerFlags,
}

#[derive(Args)]
struct TestFlags {
    /// The long counts too
    #[arg(long)]
    soak: bool,
    #[command(flatten)]
    place: PlaceFlags,
    /// With the cases that run this version beside that of another revision, which is built first
    #[arg(long, value_name = "REVISION")]
    previous: Option<String>,
    /// Have chance begin with this number, which an earlier run said: the same storm once more
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Style, and the unit and process tests of the crates that depend on what differs from a commit
    /// [default: the last one]
    #[arg(long, value_name = "COMMIT", num_args = 0..=1, require_equals = true,
        default_missing_value = "HEAD", conflicts_with_all = ["soak", "previous", "seed", "filter"])]
    changed: Option<String>,
    /// Only end-to-end cases whose name contains this; leaves out style and unit tests
    filter: Option<String>,
}

#[derive(Subcommand)]
enum LabAction {
    /// An interactive shell in the inner host; Ctrl-] leaves it
    Shell {
        #[command(flatten)]
        inner: InnerFlags,
    },
    /// Boot the inner host, run a command there, return its exit status
    Run {
        #[command(flatten)]
        inner: InnerFlags,
        /// Without our programs, which are not built then
        #[arg(long)]
        bare: bool,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            signals::wait_if_stopping();
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    signals::install()?;
    match cli.task {
        Task::Demo { shell, place } => demo::run(&place, shell),
        Task::Test(flags) => test::run(&flags),
        Task::Fuzz { target, minutes } => fuzz::run(target.as_deref(), minutes),
        Task::Mutants { module } => mutants::run(module.as_deref()),
        Task::Lab {
            action: LabAction::Shell { inner },
        } => lab::shell(inner.host()?),
        Task::Lab {
            action:
                LabAction::Run {
                    inner,
                    bare,
                    command,
                },
        } => lab::run_command(inner.host()?, bare, &command),
        Task::Bench { name, place } => bench::run(name, &place),
        Task::Seccomp { unused: false } => seccomp::run(),
        Task::Seccomp { unused: true } => seccomp::list_unused(),
        Task::ClusterInside { case } => cluster::inside(&case),
        Task::Dist { arch } => dist::run(arch.unwrap_or_else(Arch::own)),
    }
}
