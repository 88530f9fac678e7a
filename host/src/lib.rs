// SPDX-License-Identifier: Apache-2.0
//! What our programs need of the host: disk images with their locks, taps, io_urings, processes,
//! descriptors, seccomp filters, the log, the clock, the allocator, and the program's own ELF
//! segments.
//!
//! What processes agree on among themselves is in `ipc`.

pub mod affinity;
pub mod child;
pub mod clock;
pub mod descriptors;
pub mod disk;
pub mod file;
pub mod heap;
pub mod image;
pub mod lacking;
pub mod log;
pub mod numa;
pub mod output;
pub mod pidfd;
pub mod process;
pub mod readiness;
pub mod ring;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod tap;
