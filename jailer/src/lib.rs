// SPDX-License-Identifier: Apache-2.0
//! The jailer: the privileged process of one VM.
//!
//! It looks at the host: it opens everything the VM may use, makes the state directory, spawns the
//! supervisor, answers its few requests (`monitor`), waits for its end and cleans up. The supervisor is
//! a copy of this process without any privilege. It opens nothing: with what the jailer gave it, it
//! spawns, watches and replaces the VM's processes, serves the API and relays the console.
//!
//! This library does not know the code of the supervisor, which is the crate `supervisor`: the caller of
//! [`run`] supplies the function that the copy runs. What the copy takes along is in `handover`, and the
//! protocol between the two processes in `ipc::broker`, over one socket.
//!
//! Single-threaded. The only thing that the main loop waits in is one poll; what may block on storage is
//! done in short-lived copies of the process (`errands`).

use std::convert::Infallible;

use handover::outcome::Outcome;
use handover::supervisor_init::SupervisorInit;
use inherited::Inherited;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

pub mod args;
mod cgroups;
mod config;
mod deferred;
mod devices;
pub mod doctor;
mod errands;
mod helper;
pub mod host;
mod image;
pub mod inherited;
mod monitor;
mod notify;
mod open;
mod open_image;
mod opening;
mod passt;
mod pty;
mod rate_limit;
mod resources;
mod run;
mod self_test;
mod signals;
mod spawn;
mod starter;
mod state;
mod tap_setup;
mod uids;

pub use self_test::{Build, SelfTest};

/// Removes what is left of a VM whose jailer was killed.
pub fn sweep(name: &spec::VmName, state_dir: Option<&std::path::Path>) -> Outcome {
    run::sweep(name, state_dir).unwrap_or_else(|refused| refused)
}

/// Runs one VM from start to end. `live` is its supervisor's whole life: called in the copy of this
/// process that becomes the supervisor, with that copy's process id on the host, and nowhere else.
pub fn run(
    args: &args::Args,
    inherited: Inherited,
    host: &host::Host,
    main: impl FnOnce(SupervisorInit, Pid) -> Infallible,
) -> Outcome {
    run::run(args, inherited, host, main).unwrap_or_else(|refused| refused)
}

/// Runs `act` in the jail of a supervisor, which `build` makes, in its place, and waits for its end;
/// an `Err` says why there is no jail. For tests of the jail: `act` has the supervisor's rights and no
/// more.
pub fn in_place_of_a_supervisor(
    build: Build,
    act: impl FnOnce() -> Infallible,
) -> Result<WaitStatus, String> {
    self_test::stand_in(build, act)
}
