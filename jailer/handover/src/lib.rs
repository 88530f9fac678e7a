// SPDX-License-Identifier: Apache-2.0
//! What the janitor hands to the supervisor that it gives birth to: a copy of itself, so that these
//! are values and not messages. (Messages are in `ipc::broker`.) All that the privileged process and
//! the supervisor have in common.

pub mod endowment;
pub mod nursery;
pub mod outcome;
pub mod parked;
pub mod users;
