// SPDX-License-Identifier: Apache-2.0
//! Device 0: the host bridge. It has no registers of its own; operating systems look for it to
//! detect the bus.

use std::sync::{Mutex, PoisonError};

use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::root::PciFunction;

/// QEMU's bridge for machines without an emulated chipset (docs/specs/pci-ids).
const IDENTITY: Identity = Identity {
    vendor_id: 0x1b36,
    device_id: 0x0008,
    revision_id: 0,
    class: [0x06, 0x00, 0x00],
    subsystem_vendor_id: 0x1af4,
    subsystem_id: 0x1100,
};

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge(Mutex<ConfigSpace>);

impl Default for HostBridge {
    fn default() -> Self {
        Self(Mutex::new(ConfigSpace::new(IDENTITY)))
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(offset, data);
    }

    fn config_write(&self, offset: usize, data: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, data);
    }
}
