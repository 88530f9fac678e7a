// SPDX-License-Identifier: Apache-2.0
//! What the jailer hands to the supervisor that it spawns: a copy of itself, so that these
//! are values and not messages. (Messages are in `ipc::broker`.) All that the privileged process and
//! the supervisor have in common.

pub mod host_resources;
pub mod outcome;
pub mod parked;
pub mod supervisor_init;
pub mod users;
