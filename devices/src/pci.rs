// SPDX-License-Identifier: Apache-2.0
//! PCI (PCI local bus 3.0, PCI Express base 5.0): one segment, one bus, 32 single-function devices.
//! Configuration space is accessible through ECAM on every architecture and through ports on x86.
//!
//! Runs on vCPU threads.

pub mod bar;
pub mod config;
pub mod host_bridge;
pub mod root;
