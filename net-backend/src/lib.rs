// SPDX-License-Identifier: Apache-2.0
//! A NIC in a process of its own: a vhost-user backend between one guest and one tap.
//!
//! A frame's way goes through three files: [`worker`] is woken and serves both directions,
//! [`transmit`] takes frames from the guest to the tap, [`receive`] from the tap to the guest.
//! [`header`] and [`anti_spoof`] check what a guest sends, [`filter`] selects what the driver
//! receives. Around them: [`ctrl_queue`] carries out the driver's commands, [`state`] keeps their
//! results beyond the death of the process, [`device`] talks to the frontend, and [`serve`] puts it
//! all together, for a process in a jail or a standalone one.

pub mod anti_spoof;
pub mod config;
pub mod ctrl_commands;
pub mod ctrl_queue;
pub mod device;
pub mod filter;
pub mod header;
mod options;
pub mod program;
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
