// SPDX-License-Identifier: Apache-2.0
//! The command line: verbs, flags, and the help that teaches them.

mod act;
mod examples;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use spec::VmName;

pub(crate) use act::{Act, LinkState};
pub(crate) use run::RunArgs;

use crate::stats::Form;
use crate::wait::Goal;

const ABOUT: &str = "Runs virtual machines whose devices live in separate jailed processes.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about = ABOUT, after_help = examples::ALL)]
pub(crate) struct Cli {
    /// Where the state directories of VMs are, instead of /run/bulkhead (root) or
    /// $XDG_RUNTIME_DIR/bulkhead
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print JSON, also of an error; `events` and `logs` print one document on each line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a VM, and stay with it until it ends
    #[command(after_help = examples::RUN)]
    Run(Box<RunArgs>),
    /// List the VMs
    #[command(
        after_help = "Examples:\n  bulkhead ps\n  bulkhead ps --json | jq -r '.[].name'\n  \
                            bulkhead ps --all"
    )]
    Ps {
        /// Also those that have ended, and by what: the last 64 since the host was booted
        #[arg(long, short)]
        all: bool,
    },
    /// Attach this terminal to a VM's console
    #[command(after_help = examples::CONSOLE)]
    Console {
        /// The VM's name
        vm: VmName,
        /// Print the last of what the guest has written, read before or not, and do not attach
        #[arg(long)]
        log: bool,
    },
    #[command(flatten)]
    Act(Act),
    /// Wait until a VM runs, has ended, or says something on its console
    #[command(after_help = examples::WAIT)]
    Wait {
        /// The VM's name
        vm: VmName,
        /// running, ended or console=REGEX
        #[arg(long = "for", value_name = "WHAT", default_value = "ended")]
        goal: Goal,
    },
    /// Show a VM: its state, spec, command line and processes; or how it has ended
    #[command(after_help = "Examples:\n  bulkhead inspect web\n  \
                            bulkhead inspect web --json | jq -r .pty")]
    Inspect {
        /// The VM's name
        vm: VmName,
    },
    /// Show what a VM has done so far: processor time, memory, requests, packets
    #[command(after_help = examples::STATS)]
    Stats(StatsArgs),
    /// Show what has happened to a VM: backends that died or were replaced, pauses, reboots
    #[command(after_help = examples::EVENTS)]
    Events {
        /// The VM's name
        vm: VmName,
        /// Go on with what happens, until the VM has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the log of a VM's processes
    #[command(after_help = examples::LOGS)]
    Logs {
        /// The VM's name
        vm: VmName,
        /// Go on with what is written, until the VM has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// Check a VM's JSON file without starting it
    #[command(after_help = "Example:\n  bulkhead check vm.json && bulkhead run --config vm.json")]
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Show all VMs and their processes on the whole screen, every second
    #[command(after_help = examples::TOP)]
    Top {
        /// The VMs' names [default: all VMs]
        #[arg(value_name = "VM")]
        vms: Vec<VmName>,
    },
    /// Say what this host can give a VM, and what it lacks
    #[command(after_help = "Example:\n  bulkhead doctor")]
    Doctor,
    /// Print the JSON schema of a VM's file
    #[command(
        after_help = "Examples:\n  bulkhead schema > bulkhead-vm.schema.json\n  \
                            bulkhead schema --api > bulkhead-api.openapi.json"
    )]
    Schema {
        /// Print the OpenAPI document of a VM's API instead
        #[arg(long)]
        api: bool,
    },
    /// Print what a shell needs to complete our command line
    #[command(after_help = "Example:\n  bulkhead completions bash \
                            >/usr/share/bash-completion/completions/bulkhead")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each verb
    #[command(after_help = "Example:\n  bulkhead man /usr/local/share/man/man1")]
    Man {
        /// The directory they go to, made if need be
        dir: PathBuf,
    },
}

/// `bulkhead stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// The VM's name [default: all VMs]
    pub(crate) vm: Option<VmName>,
    /// Print the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
}

impl StatsArgs {
    /// The format that the flags select.
    pub(crate) fn form(&self, json: bool) -> Form {
        match (json, self.prometheus) {
            (true, _) => Form::Json,
            (_, true) => Form::Prometheus,
            (false, false) => Form::Table,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        use clap::CommandFactory;
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string);
            let name = verb.get_name();
            let example = format!("bulkhead {name}");
            assert!(help.is_some_and(|help| help.contains(&example)), "{name}");
        }
    }
}

#[cfg(test)]
#[path = "guide_tests.rs"]
mod guide;
