// SPDX-License-Identifier: Apache-2.0
//! The program `cloud-hypervisor`: Cloud Hypervisor's command line, REST API and event monitor, for
//! clients that speak those, libvirt's driver `ch` above all. It is a client of Bulkhead like any other:
//! it starts the jailer with a document and talks to the VM's API. Nothing of it is in the VM's processes.
//!
//! One thread waits for everything ([`serve`]) and serves one request after the other, as Cloud
//! Hypervisor does. The way of a request: [`connection`] and [`http`] (bytes), [`endpoints`] (what is
//! asked), [`machine`] (what a VM is in the dialect), [`document`], [`fields`] and [`translate`]
//! (`vm.create` to a [`spec::VmSpec`]), [`jailer`] and [`native`] (the VM itself). What happens comes
//! back through [`follower`] and goes out through [`monitor`].

pub mod args;
pub mod connection;
pub mod document;
mod ended;
pub mod endpoints;
pub mod fault;
pub mod fields;
pub mod follower;
pub mod http;
pub mod inherited;
pub mod jailer;
pub mod listener;
pub mod machine;
pub mod monitor;
pub mod native;
pub mod options;
pub mod serve;
mod terminal;
pub mod translate;
pub mod watch;

/// What `--version` and `vmm.ping` say: the version of the dialect, and whose it is. libvirt reads it up
/// to the first `-`, and would take it from behind the last `/` if there were one.
pub const VERSION: &str = concat!("v51.0-bulkhead-", env!("CARGO_PKG_VERSION"));

/// Leaves our terminal as it was before a VM's serial port was on it.
pub fn leave_terminal() {
    terminal::restore();
}

#[cfg(test)]
mod tables_tests;
