// SPDX-License-Identifier: Apache-2.0
//! The jailer: one per VM. It is two processes:
//!
//! - the [`janitor`] looks at the host: it opens everything the VM may use, makes the state
//!   directory, gives birth to the supervisor, waits, and cleans up whatever became of the rest;
//! - the supervisor is born without any privilege and opens nothing: with what the janitor gave it,
//!   it spawns, watches and replaces the VM's processes, serves the API and relays the console.
//!
//! Between them is one socket and the few messages of `link`. Both are single-threaded, and nothing
//! in them waits for a guest, a client, a child that lives or the storage of an image except in one
//! poll. What may block on storage is done in short-lived processes of the janitor's.

use std::convert::Infallible;

use inherited::Inherited;
use ipc::control::Channel;
use supervisor::Nursery;

pub mod args;
pub mod doctor;
pub mod host;
pub mod inherited;
pub mod janitor;
pub mod link;
pub mod outcome;
mod parked;
mod profile;
mod seccomp;
mod supervisor;

pub use supervisor::api::http;
pub use supervisor::api::route::{ROUTES, Route};

#[cfg(any(test, feature = "testing"))]
pub use supervisor::testing;

/// Removes what is left of a VM whose jailer was killed.
pub fn sweep(name: &spec::VmName, state_dir: Option<&std::path::Path>) -> outcome::Outcome {
    janitor::sweep(name, state_dir).unwrap_or_else(|refused| refused)
}

/// Runs one VM from start to end.
pub fn run(args: &args::Args, inherited: Inherited, host: &host::Host) -> outcome::Outcome {
    janitor::run(args, inherited, host, Nursery::live).unwrap_or_else(|refused| refused)
}

/// The same, but all that the supervisor does in its jail is `act`, with its end of the link to the
/// janitor. For tests of the janitor.
pub fn run_with_supervisor(
    args: &args::Args,
    inherited: Inherited,
    host: &host::Host,
    act: impl FnOnce(&Channel, &spec::Vm) -> Infallible,
) -> outcome::Outcome {
    let live = |nursery: Nursery, _| nursery.stand_in(act);
    janitor::run(args, inherited, host, live).unwrap_or_else(|refused| refused)
}

/// Runs `act` in the jail of a supervisor, in its place, and waits for its end; an `Err` says why
/// there is no jail. For tests of the jail: `act` has the supervisor's rights and no more.
pub fn in_place_of_a_supervisor(
    act: impl FnOnce() -> Infallible,
) -> Result<nix::sys::wait::WaitStatus, String> {
    janitor::rehearsal::stand_in(act)
}
