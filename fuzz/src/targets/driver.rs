// SPDX-License-Identifier: Apache-2.0
//! What a well-behaved driver does to start a device, so that a script reaches a running one with
//! few bytes.

use devices::bus::Bus;
use devices::pci::root::PciFunction;

use crate::machine::{Card, FEATURES};

const COMMON_FEATURE_SELECT: u64 = 8;
const COMMON_FEATURE: u64 = 12;
const COMMON_CONFIG_VECTOR: u64 = 16;
const COMMON_STATUS: u64 = 20;
const COMMON_QUEUE_SELECT: u64 = 22;
const MSIX_TABLE: u64 = 0x8000;
const MSIX_CAPABILITY: u8 = 0x11;

/// Where a card's MSI-X capability is.
pub(super) fn msix_capability(card: &Card) -> usize {
    let read = |offset| {
        let mut byte = [0];
        card.function.config_read(offset, &mut byte);
        byte[0]
    };
    let mut at = usize::from(read(0x34));
    while read(at) != MSIX_CAPABILITY {
        at = usize::from(read(at + 1));
    }
    at
}

/// From reset to DRIVER_OK: queue 0 on vector 1, queue 1 on vector 2, configuration on vector 0,
/// vector i with data 0x40 + i.
pub(super) fn start(card: &Card, memory: &Bus, base: u64) {
    let write = |offset: u64, data: &[u8]| memory.write(base + offset, data);
    card.function.config_write(4, &[6, 0]);
    for vector in 0..3_u32 {
        let entry = MSIX_TABLE + 16 * u64::from(vector);
        write(entry, &0xfee0_0000_u64.to_le_bytes());
        write(entry + 8, &(0x40 + vector).to_le_bytes());
        write(entry + 12, &[0; 4]);
    }
    card.function
        .config_write(msix_capability(card) + 2, &[0, 0x80]);
    write(COMMON_STATUS, &[3]);
    for (select, word) in FEATURES.to_le_bytes().chunks(4).enumerate() {
        let select = u32::try_from(select).unwrap();
        write(COMMON_FEATURE_SELECT, &select.to_le_bytes());
        write(COMMON_FEATURE, word);
    }
    write(COMMON_STATUS, &[0xb]);
    write(COMMON_CONFIG_VECTOR, &[0, 0]);
    for queue in 0..2_u16 {
        write(COMMON_QUEUE_SELECT, &queue.to_le_bytes());
        write(24, &64_u16.to_le_bytes());
        write(26, &(queue + 1).to_le_bytes());
        for (part, field) in [32, 40, 48].into_iter().enumerate() {
            let at = 0x10_0000 * (u64::from(queue) + 1) + 0x1000 * part as u64;
            write(field, &at.to_le_bytes());
        }
        write(28, &[1, 0]);
    }
    write(COMMON_STATUS, &[0xf]);
}
