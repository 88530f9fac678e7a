// SPDX-License-Identifier: Apache-2.0
//! The jailer: one per VM. It is cut in two along a line that no call crosses except the one that
//! hands over the endowment:
//!
//! - the [`janitor`] looks at the host: it opens everything the VM may use, makes the state
//!   directory, waits, and cleans up whatever became of the rest;
//! - the supervisor opens nothing: with what the janitor gave it, it spawns, watches and replaces
//!   the VM's processes, serves the API and relays the console.
//!
//! Single-threaded, and nothing in it waits for a guest, a client or a child except in one poll.

pub mod args;
pub mod host;
pub mod janitor;
pub mod outcome;
mod supervisor;

pub use supervisor::api::http;

/// Removes what is left of a VM whose jailer was killed.
pub fn sweep(name: &spec::VmName, state_dir: Option<&std::path::Path>) -> outcome::Outcome {
    janitor::sweep(name, state_dir).unwrap_or_else(|refused| refused)
}

/// Runs one VM from start to end.
pub fn run(args: &args::Args, host: &host::Host) -> outcome::Outcome {
    janitor::run(args, host).unwrap_or_else(|refused| refused)
}
