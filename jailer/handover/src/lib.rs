// SPDX-License-Identifier: Apache-2.0
//! What the jailer hands to the supervisor, which is a clone of the jailer: so these are values and
//! not messages. (The messages are in `ipc::broker`.) This is the only code that the crates
//! `jailer` and `supervisor` share with each other alone; neither depends on the other.

pub mod host_resources;
pub mod outcome;
pub mod parked;
pub mod supervisor_init;
pub mod users;
