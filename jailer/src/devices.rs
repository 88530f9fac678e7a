// SPDX-License-Identifier: Apache-2.0
//! What devices are opened from: backend binaries, taps, and what a helper has opened for them.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};

use spec::{NetKind, PowerButton, SpecError, Vm};

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
    /// The power button's binary, if that is a virtio device.
    pub(crate) input: Option<OwnedFd>,
    /// The taps of the NICs.
    pub(crate) taps: Vec<OpenTap>,
    /// Streams to external vhost-user backends, without passt's.
    pub(crate) streams: Vec<OwnedFd>,
}

impl Devices {
    /// Opens everything that cannot block on storage; adds what is wrong to `errors`.
    pub(super) fn open(
        vm: &Vm,
        host: &Host,
        inherited: BTreeMap<RawFd, OwnedFd>,
        errors: &mut Vec<SpecError>,
    ) -> Self {
        let binary = |name, path, errors: &mut Vec<SpecError>| {
            open_binary(name, path).map_err(|e| errors.push(e)).ok()
        };
        let blk = match vm.disks.is_empty() {
            true => None,
            false => binary("blk-backend", &host.blk, errors),
        };
        let input = match vm.power_button {
            PowerButton::Virtio => binary("input-backend", &host.input, errors),
            _ => None,
        };
        let taps = tap_setup::open_all(vm, inherited, errors);
        let net = match vm
            .nets
            .iter()
            .all(|net| matches!(net.kind, NetKind::User(_)))
        {
            true => None,
            false => binary("net-backend", &host.net, errors),
        };
        passt::check(vm, host.passt.as_deref(), errors);
        Self {
            blk,
            images: Vec::new(),
            net,
            input,
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
