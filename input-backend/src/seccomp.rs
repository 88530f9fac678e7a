// SPDX-License-Identifier: Apache-2.0
//! The system calls that this process may make once it serves a frontend: the table `seccomp.json`,
//! compiled when the project is built.
//!
//! The filter is installed in all threads at once, after the last of them has started.

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));
