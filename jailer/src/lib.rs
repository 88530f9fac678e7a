// SPDX-License-Identifier: Apache-2.0
//! The jailer: one per VM. It is two processes:
//!
//! - the [`janitor`] looks at the host: it opens everything the VM may use, makes the state
//!   directory, gives birth to the supervisor, waits, and cleans up whatever became of the rest;
//! - the supervisor is born without any privilege and opens nothing: with what the janitor gave it,
//!   it spawns, watches and replaces the VM's processes, serves the API and relays the console.
//!
//! This library is the first alone. It does not know the second, which is `supervisor`: whoever calls
//! [`run`] says what the copy does that the janitor makes of itself. What the copy takes with it is in
//! `handover`, and what the two say to each other in `ipc::broker`, over one socket.
//!
//! Both are single-threaded, and nothing in them waits for a guest, a client, a child that lives or
//! the storage of an image except in one poll. What may block on storage is done in short-lived
//! processes of the janitor's.

use std::convert::Infallible;

use handover::nursery::Nursery;
use handover::outcome::Outcome;
use inherited::Inherited;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

pub mod args;
pub mod doctor;
pub mod host;
pub mod inherited;
pub mod janitor;

pub use janitor::rehearsal::{Build, Rehearse};

/// Removes what is left of a VM whose jailer was killed.
pub fn sweep(name: &spec::VmName, state_dir: Option<&std::path::Path>) -> Outcome {
    janitor::sweep(name, state_dir).unwrap_or_else(|refused| refused)
}

/// Runs one VM from start to end. `live` is its supervisor's whole life: called in the copy of this
/// process that becomes the supervisor, with that copy's process id on the host, and nowhere else.
pub fn run(
    args: &args::Args,
    inherited: Inherited,
    host: &host::Host,
    live: impl FnOnce(Nursery, Pid) -> Infallible,
) -> Outcome {
    janitor::run(args, inherited, host, live).unwrap_or_else(|refused| refused)
}

/// Runs `act` in the jail of a supervisor, which `build` makes, in its place, and waits for its end;
/// an `Err` says why there is no jail. For tests of the jail: `act` has the supervisor's rights and no
/// more.
pub fn in_place_of_a_supervisor(
    build: Build,
    act: impl FnOnce() -> Infallible,
) -> Result<WaitStatus, String> {
    janitor::rehearsal::stand_in(build, act)
}
