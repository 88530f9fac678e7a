// SPDX-License-Identifier: Apache-2.0
//! The system calls of this process once it serves a frontend: one table in `seccomp.json`, compiled
//! when the project is built.
//!
//! Installed in all threads at once, after the last of them has started.

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));
