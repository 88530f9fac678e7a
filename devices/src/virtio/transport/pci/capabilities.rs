// SPDX-License-Identifier: Apache-2.0
//! The capabilities that locate the registers (virtio 1.2 §4.1.4, PCI local bus 3.0 §6.8.2).

use crate::pci::config::{ConfigSpace, NoRoom};
use crate::virtio::transport::pci::{common_config, layout, vector_count};

/// The BAR that holds all registers.
pub(super) const BAR: u8 = 0;

const ID_VENDOR: u8 = 0x09;
const ID_MSIX: u8 = 0x11;

/// `cfg_type` (§4.1.4)
mod cfg_type {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(super) const PCI: u8 = 5;
}

/// The offsets in configuration space of the capabilities that a driver writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    /// MSI-X; Message Control is at offset 2.
    pub(super) msix: usize,
    /// PCI configuration access (§4.1.4.9).
    pub(super) pci_cfg: usize,
}

/// The offsets in `struct virtio_pci_cap`.
pub(super) mod cap {
    pub(in super::super) const BAR: usize = 4;
    pub(in super::super) const OFFSET: usize = 8;
    pub(in super::super) const LENGTH: usize = 12;
    pub(in super::super) const PCI_CFG_DATA: usize = 16;
}

/// The body of `struct virtio_pci_cap` after its first two bytes, with extra data.
fn body(kind: u8, bar: u8, offset: u64, length: u64, extra: &[u8]) -> Vec<u8> {
    // "The device MUST include any extra data in cap_len" (§4.1.4.2); 20 bytes at most.
    let cap_len = 16 + u8::try_from(extra.len()).unwrap_or(0);
    let mut body = vec![cap_len, kind, bar, 0, 0, 0];
    for field in [offset, length] {
        body.extend(u32::try_from(field).unwrap_or(0).to_le_bytes());
    }
    body.extend(extra);
    body
}

/// Adds all capabilities of a device with `queues` queues.
pub(super) fn add(
    config: &mut ConfigSpace,
    queues: usize,
    config_len_bytes: usize,
) -> Result<Offsets, NoRoom> {
    let vendor = |config: &mut ConfigSpace, kind, offset, length: usize, extra: &[u8]| {
        config.add_capability(
            ID_VENDOR,
            &body(kind, BAR, offset, length as u64, extra),
            &[],
        )
    };
    let common_len = common_config::LEN_BYTES;
    vendor(config, cfg_type::COMMON, layout::COMMON, common_len, &[])?;
    // "cap.length >= queue_notify_off * notify_off_multiplier + 2" (§4.1.4.4.1)
    let multiplier = layout::NOTIFY_MULTIPLIER.to_le_bytes();
    let notify_len = queues.max(1) * layout::NOTIFY_MULTIPLIER as usize;
    vendor(
        config,
        cfg_type::NOTIFY,
        layout::NOTIFY,
        notify_len,
        &multiplier,
    )?;
    vendor(config, cfg_type::ISR, layout::ISR, 1, &[])?;
    // "at least one VIRTIO_PCI_CAP_DEVICE_CFG capability for any device type which has a
    // device-specific configuration" (§4.1.4.6)
    if config_len_bytes > 0 {
        vendor(
            config,
            cfg_type::DEVICE,
            layout::DEVICE_CONFIG,
            config_len_bytes,
            &[],
        )?;
    }
    // The driver writes bar, offset, length and the data (§4.1.4.9)
    let mut writable = [0xff; 18];
    (
        writable[0],
        writable[1],
        writable[3],
        writable[4],
        writable[5],
    ) = (0, 0, 0, 0, 0);
    let window = body(cfg_type::PCI, 0, 0, 0, &[0; 4]);
    let pci_cfg = config.add_capability(ID_VENDOR, &window, &writable)?;
    let msix = config.add_capability(ID_MSIX, &msix_body(queues), &[0, 0xc0])?;
    Ok(Offsets { msix, pci_cfg })
}

/// Message Control, and the locations of the table and the pending bits.
fn msix_body(queues: usize) -> Vec<u8> {
    // "encoded as N-1" (§6.8.2.3)
    let last = u16::try_from(vector_count(queues) - 1).unwrap_or(0);
    let mut body = last.to_le_bytes().to_vec();
    for offset in [layout::MSIX_TABLE, layout::MSIX_PBA] {
        let register = u32::try_from(offset).unwrap_or(0) | u32::from(BAR);
        body.extend(register.to_le_bytes());
    }
    body
}
