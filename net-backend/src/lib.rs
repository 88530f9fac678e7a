// SPDX-License-Identifier: Apache-2.0
//! A network card in a process of its own: a vhost-user backend between one guest and one tap.
//!
//! A frame is followed through three files: [`worker`] is woken and looks at both directions,
//! [`transmit`] takes frames from the guest to the tap, [`receive`] from the tap to the guest. What
//! a frame may be is in [`header`] and [`guard`], what the driver wants to get in [`filter`]. Around
//! them: [`control`] obeys the driver's commands and [`state`] keeps what came of them if the process
//! dies, [`device`] speaks to the frontend, [`serve`] puts it together for a process that was born
//! in a jail or one that runs alone.

pub mod anti_spoof;
pub mod config;
pub mod ctrl_commands;
pub mod ctrl_queue;
pub mod device;
pub mod filter;
pub mod header;
mod options;
pub mod program;
pub mod progress;
pub mod queue_state;
pub mod receive;
pub mod rx_buffers;
mod seccomp;
pub mod serve;
pub mod settings;
pub mod shared;
mod standalone;
pub mod state;
mod supervised;
pub mod transmit;
pub mod tx_frame;
pub mod worker;
