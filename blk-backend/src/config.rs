// SPDX-License-Identifier: Apache-2.0
//! The device's feature bits and configuration space (virtio 1.2, §5.2.3 and §5.2.4).
//!
//! The frontend reads them once per connection; they do not change while the process runs.

use ipc::fd::blk::QUEUES_MAX;
use ipc::record::{Geometry, SECTOR_BYTES};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// The length of the serial number in a GET_ID request.
pub const SERIAL_BYTES: usize = 20;
/// The longest buffer a driver should make.
const SIZE_MAX_BYTES: u32 = 4 << 20;
/// The shortest queue that the longest request must fit into: other frontends use this size by
/// default, and a chain may not be longer than its queue.
const COMMON_QUEUE_SIZE: u16 = 128;
/// The most sectors of one discard: 2 GiB.
pub const DISCARD_MAX_SECTORS: u32 = 1 << 22;
/// The most sectors of one write-zeroes: 64 MiB, which one vectored write of zeroes can cover.
pub const WRITE_ZEROES_MAX_SECTORS: u32 = 1 << 17;
/// The length of `struct virtio_blk_config` up to and including `unused1`.
const CONFIG_BYTES: usize = 60;

/// Why a disk cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The number of queues is out of range.
    #[error("queues={0}: must be 1 to {QUEUES_MAX}")]
    Queues(u16),
    /// The size of the queues is invalid.
    #[error("queue-size={0}: must be a power of two from 16 to 1024")]
    QueueSize(u16),
}

/// A disk as the guest sees it.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The geometry of the image.
    pub geometry: Geometry,
    /// Whether the device refuses writes.
    pub readonly: bool,
    /// The serial number, padded with NUL.
    pub serial: [u8; SERIAL_BYTES],
    /// The number of queues.
    pub queues: u16,
    /// The most entries of a queue.
    pub queue_size: u16,
}

impl Disk {
    /// Checks the number and size of the queues.
    pub fn check(&self) -> Result<(), DiskError> {
        if self.queues == 0 || self.queues > QUEUES_MAX {
            return Err(DiskError::Queues(self.queues));
        }
        if !self.queue_size.is_power_of_two() || !(16..=1024).contains(&self.queue_size) {
            return Err(DiskError::QueueSize(self.queue_size));
        }
        Ok(())
    }

    /// Converts text to a serial number; truncates it to 20 bytes.
    pub fn serial_from(text: &str) -> [u8; SERIAL_BYTES] {
        let mut serial = [0; SERIAL_BYTES];
        for (to, from) in serial.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        serial
    }

    /// The feature bits.
    pub fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_FLUSH,
        ];
        if self.readonly {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        if self.queues > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        bits.iter().fold(protocol, |all, bit| all | 1 << bit)
    }

    /// The vhost-user protocol features. INFLIGHT_SHMFD is not among them: the process inherits the
    /// region.
    pub fn protocol_features() -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    /// The configuration space: `struct virtio_blk_config`, little-endian.
    pub fn config(&self) -> [u8; CONFIG_BYTES] {
        let Geometry {
            capacity_bytes,
            logical_block_bytes,
            physical_block_bytes,
            ..
        } = self.geometry;
        let ratio = (physical_block_bytes / logical_block_bytes).max(1);
        let exponent = u8::try_from(ratio.ilog2()).unwrap_or(0);
        // min_io_size and opt_io_size count logical blocks; 0 leaves the latter unspecified.
        let minimum = u16::try_from(ratio).unwrap_or(u16::MAX);
        // Header and status need a descriptor each.
        let shortest = self.queue_size.min(COMMON_QUEUE_SIZE);
        let segments = u32::from(shortest).saturating_sub(2).max(1);
        let alignment = logical_block_bytes.max(physical_block_bytes) / 512;
        let mut space = Space::default();
        space.put(0, &(capacity_bytes / SECTOR_BYTES).to_le_bytes());
        space.put(8, &SIZE_MAX_BYTES.to_le_bytes());
        space.put(12, &segments.to_le_bytes());
        space.put(20, &logical_block_bytes.to_le_bytes());
        space.put(24, &[exponent, 0]);
        space.put(26, &minimum.to_le_bytes());
        space.put(34, &self.queues.to_le_bytes());
        if !self.readonly {
            space.put(36, &DISCARD_MAX_SECTORS.to_le_bytes());
            space.put(40, &1_u32.to_le_bytes());
            space.put(44, &alignment.to_le_bytes());
            space.put(48, &WRITE_ZEROES_MAX_SECTORS.to_le_bytes());
            space.put(52, &1_u32.to_le_bytes());
            space.put(56, &[1]);
        }
        space.0
    }
}

struct Space([u8; CONFIG_BYTES]);

impl Default for Space {
    fn default() -> Self {
        Self([0; CONFIG_BYTES])
    }
}

impl Space {
    fn put(&mut self, offset: usize, field: &[u8]) {
        self.0[offset..offset + field.len()].copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(readonly: bool, queues: u16) -> Disk {
        Disk {
            geometry: Geometry {
                capacity_bytes: 1 << 20,
                logical_block_bytes: 512,
                physical_block_bytes: 4096,
                storage_block_bytes: 512,
                memory_align_bytes: 1,
                block_device: false,
            },
            readonly,
            serial: Disk::serial_from("abc"),
            queues,
            queue_size: 128,
        }
    }

    fn has(disk: &Disk, bit: u32) -> bool {
        disk.features() & (1 << bit) != 0
    }

    #[test]
    fn features_follow_what_the_disk_is() {
        assert!(has(&disk(true, 1), VIRTIO_BLK_F_RO));
        assert!(!has(&disk(true, 1), VIRTIO_BLK_F_DISCARD));
        assert!(!has(&disk(false, 1), VIRTIO_BLK_F_RO));
        assert!(has(&disk(false, 1), VIRTIO_BLK_F_WRITE_ZEROES));
        assert!(!has(&disk(false, 1), VIRTIO_BLK_F_MQ));
        assert!(has(&disk(false, 2), VIRTIO_BLK_F_MQ));
    }

    #[test]
    fn config_space_has_the_fields_where_the_specification_has_them() {
        let config = disk(false, 4).config();
        assert_eq!(config[..8], 2048_u64.to_le_bytes());
        assert_eq!(config[12..16], 126_u32.to_le_bytes());
        assert_eq!(config[20..24], 512_u32.to_le_bytes());
        assert_eq!((config[24], config[26]), (3, 8));
        assert_eq!(config[34..36], 4_u16.to_le_bytes());
        assert_eq!(config[56], 1);
    }

    #[test]
    fn serial_longer_than_its_field_is_cut() {
        assert_eq!(
            &Disk::serial_from("0123456789012345678901"),
            b"01234567890123456789"
        );
    }
}
