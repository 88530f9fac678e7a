// SPDX-License-Identifier: Apache-2.0
//! For tests of this crate and of others: a host that insists on its contracts, a device that
//! remembers what it was asked, and what a driver does to a function.

#![allow(clippy::unwrap_used)] // a test says by panicking that something is wrong
#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

mod device;
mod guest;
mod wires;

pub use device::{FakeDevice, OFFERED, QUEUE_SIZES};
pub use guest::{BAR_LEN, BASE, COMMAND, Guest, windows};
pub use wires::Wires;
