// SPDX-License-Identifier: Apache-2.0
//! What devices are opened from: backend binaries, taps, and what a helper has opened for them.

use std::os::fd::OwnedFd;

use spec::{NetKind, SpecError, Vm};

use super::open::open_binary;
use super::opening::{Found, OpenImage};
use super::passt;
use super::tap_setup::{self, OpenTap};
use crate::host::Host;

/// What was opened.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The disk backend's binary, if the VM has disks.
    pub(crate) blk: Option<OwnedFd>,
    /// The disk images.
    pub(crate) images: Vec<OpenImage>,
    /// The network backend's binary, if the VM has NICs with a tap.
    pub(crate) net: Option<OwnedFd>,
    /// The taps of the NICs.
    pub(crate) taps: Vec<OpenTap>,
    /// Streams to external vhost-user backends, without passt's.
    pub(crate) streams: Vec<OwnedFd>,
}

impl Devices {
    /// Opens everything that cannot block on storage; adds what is wrong to `errors`.
    pub(super) fn open(vm: &Vm, host: &Host, errors: &mut Vec<SpecError>) -> Self {
        let blk = match vm.disks.is_empty() {
            true => None,
            false => open_binary("blk-backend", &host.blk)
                .map_err(|e| errors.push(e))
                .ok(),
        };
        let taps = tap_setup::open_all(vm, errors);
        let net = match vm
            .nets
            .iter()
            .all(|net| matches!(net.kind, NetKind::User(_)))
        {
            true => None,
            false => open_binary("net-backend", &host.net)
                .map_err(|e| errors.push(e))
                .ok(),
        };
        passt::check(vm, host.passt.as_deref(), errors);
        Self {
            blk,
            images: Vec::new(),
            net,
            taps,
            streams: Vec::new(),
        }
    }

    /// Adds what the helper has opened.
    pub(super) fn add(&mut self, found: Found) {
        (self.images, self.streams) = (found.images, found.streams);
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
