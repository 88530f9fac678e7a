// SPDX-License-Identifier: Apache-2.0
//! The other side of a vhost-user disk, without a guest: a vhost-user frontend and a virtio-blk
//! driver in one process, to load, measure and check any backend.
//!
//! The driver ([`disk`], [`ring`]) and its memory ([`memory`]) live apart from the connection
//! ([`connection`]): a backend may die and another take its place while requests are outstanding,
//! as it is for a guest.
//!
//! [`file`] and [`stream`] are for a guest: what they do goes through its operating system.

pub mod connection;
pub mod content;
pub mod cpu;
pub mod crash_tests;
pub mod disk;
pub mod exercise;
pub mod file;
pub mod gaps;
pub mod histogram;
pub mod lane;
pub mod load;
pub mod memory;
pub mod net;
pub mod pauses;
pub mod program;
pub mod random;
pub mod ring;
pub mod stream;
pub mod supervised;
pub mod verify;
