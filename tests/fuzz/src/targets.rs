// SPDX-License-Identifier: Apache-2.0
//! The targets, one file each.

pub(crate) mod blk;
pub(crate) mod control;
pub(crate) mod dialect;
pub(crate) mod guard;
pub(crate) mod http;
pub(crate) mod inflight;
pub(crate) mod input;
pub(crate) mod ioapic;
pub(crate) mod kernel;
pub(crate) mod machine;
pub(crate) mod msix;
pub(crate) mod net;
pub(crate) mod pci;
pub(crate) mod plic;
pub(crate) mod record;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod supervisor;
pub(crate) mod transport;
pub(crate) mod vhost_user;
