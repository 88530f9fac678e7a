// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests: a runner, the cases, and a harness that drives `bulkhead` as a user would.

pub mod arch;
pub mod bench;
pub mod boot_sector;
pub mod cases;
pub mod context;
pub mod demo;
pub mod exchange;
pub mod faulty;
pub mod fuse;
pub mod hang;
pub mod harness;
pub mod inspect;
pub mod mounts;
pub mod network;
pub mod no_os_kernel;
pub mod procs;
pub mod qemu;
pub mod rival;
pub mod runner;
pub mod storage;
pub mod storm;
pub mod traffic;
pub mod transcript;
pub mod vm;
pub mod without_io_uring;
