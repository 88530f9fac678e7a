// SPDX-License-Identifier: Apache-2.0
//! A power button in a process of its own: a vhost-user backend for a virtio keyboard with one key
//! (virtio 1.2 §5.8), for machines whose guests have no driver for another button.
//!
//! The supervisor says how often the button has been pressed. [`worker`] tells the driver of each
//! press once, and [`deliveries`] keeps beyond the death of the process how far it got. The vmm
//! itself serves the configuration space, which says what the keyboard is: a vCPU that reads it waits
//! for no backend.

pub mod deliveries;
pub mod device;
pub mod event;
pub mod program;
mod seccomp;
pub mod shared;
pub mod worker;
