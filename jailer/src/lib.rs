// SPDX-License-Identifier: Apache-2.0
//! The jailer: the privileged process of one VM.
//!
//! The jailer sees the host: it opens everything the VM may use, makes the state directory, spawns
//! the supervisor, answers the supervisor's few requests (`monitor`), waits for it to end and
//! cleans up. The supervisor is a clone of this process without any privilege. It opens nothing:
//! with what the jailer gave it, it spawns, watches and replaces the VM's processes, serves the API
//! and relays the console.
//!
//! This library does not depend on the code of the supervisor, which is the crate `supervisor`: the
//! caller of [`run`] supplies the function that the clone runs. What the clone takes along is in
//! `handover`, and the protocol between the two processes, over one socket, in `ipc::broker`.
//!
//! Single-threaded. The main loop waits in one poll(2) only; short-lived copies of the process
//! (`errands`) do what may block on storage.

use std::convert::Infallible;

use handover::outcome::Outcome;
use handover::supervisor_init::SupervisorInit;
use inherited::Inherited;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

mod arch;
pub mod args;
mod cgroups;
mod config;
mod console_socket;
mod deferred;
mod devices;
pub mod doctor;
mod ended;
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
mod placement;
mod private_dir;
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

/// Runs one VM from start to end. `main` is the supervisor's entry point: it is called only in the
/// clone of this process that becomes the supervisor, with the clone's process id on the host.
pub fn run(
    args: &args::Args,
    inherited: Inherited,
    host: &host::Host,
    main: impl FnOnce(SupervisorInit, Pid) -> Infallible,
) -> Outcome {
    run::run(args, inherited, host, main).unwrap_or_else(|refused| refused)
}

/// Runs `act` instead of a supervisor, in a supervisor's jail that `build` makes, and waits for it
/// to end; an `Err` says why there is no jail. For tests of the jail: `act` has a supervisor's
/// rights and no more.
pub fn in_place_of_a_supervisor(
    build: Build,
    act: impl FnOnce() -> Infallible,
) -> Result<WaitStatus, String> {
    self_test::stand_in(build, act)
}
