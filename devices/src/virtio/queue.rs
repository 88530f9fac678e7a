// SPDX-License-Identifier: Apache-2.0
//! A split virtqueue as the driver describes it (virtio 1.2 §2.7). The vmm never reads its
//! descriptors; it only knows the addresses.

use vm_memory::{Address, GuestAddress};

/// The largest size of a queue (§2.7: "The maximum Queue Size value is 32768").
pub const SIZE_MAX: u16 = 32768;

/// The addresses and size of a queue. Checked: the size is a power of two, every part is aligned
/// and none wraps around the end of the address space. Not checked: whether guest memory is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLayout {
    size: u16,
    descriptors: GuestAddress,
    driver: GuestAddress,
    device: GuestAddress,
}

impl QueueLayout {
    /// Checks a driver's settings.
    pub fn new(
        size: u16,
        descriptors: GuestAddress,
        driver: GuestAddress,
        device: GuestAddress,
    ) -> Option<Self> {
        let layout = Self {
            size,
            descriptors,
            driver,
            device,
        };
        // §2.7: "Queue Size value is always a power of 2", and the alignment of the three parts.
        let aligned = descriptors.raw_value().is_multiple_of(16)
            && driver.raw_value().is_multiple_of(2)
            && device.raw_value().is_multiple_of(4);
        let ends = layout
            .parts()
            .iter()
            .all(|(base, len)| base.checked_add(*len).is_some());
        (size.is_power_of_two() && size <= SIZE_MAX && aligned && ends).then_some(layout)
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor table.
    pub fn descriptors(&self) -> GuestAddress {
        self.descriptors
    }

    /// The available ring.
    pub fn driver(&self) -> GuestAddress {
        self.driver
    }

    /// The used ring.
    pub fn device(&self) -> GuestAddress {
        self.device
    }

    /// The address of the device's used index (§2.7.8: `struct virtq_used.idx`).
    pub fn used_index(&self) -> GuestAddress {
        // Does not wrap: the used ring is longer than that, checked by `new`.
        self.device.unchecked_add(2)
    }

    /// The address of the driver's available index (§2.7.6: `struct virtq_avail.idx`).
    pub fn avail_index(&self) -> GuestAddress {
        // Does not wrap: the available ring is longer than that, checked by `new`.
        self.driver.unchecked_add(2)
    }

    /// The three parts: address and length in bytes.
    pub fn parts(&self) -> [(GuestAddress, u64); 3] {
        let size = u64::from(self.size);
        [
            (self.descriptors, 16 * size),
            (self.driver, 6 + 2 * size),
            (self.device, 6 + 8 * size),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: u16, descriptors: u64, driver: u64, device: u64) -> Option<QueueLayout> {
        QueueLayout::new(
            size,
            GuestAddress(descriptors),
            GuestAddress(driver),
            GuestAddress(device),
        )
    }

    #[test]
    fn layout_aligned_with_a_power_of_two_is_accepted() {
        let layout = layout(256, 0x1000, 0x2002, 0x3004).unwrap();
        assert_eq!(layout.used_index(), GuestAddress(0x3006));
        assert_eq!(layout.parts()[0], (GuestAddress(0x1000), 4096));
        assert_eq!(layout.parts()[1], (GuestAddress(0x2002), 518));
        assert_eq!(layout.parts()[2], (GuestAddress(0x3004), 2054));
    }

    #[test]
    fn size_no_power_of_two_is_refused() {
        for size in [0, 3, 255, 257, 32769, u16::MAX] {
            assert_eq!(layout(size, 0x1000, 0x2000, 0x3000), None);
        }
    }

    #[test]
    fn part_misaligned_or_past_the_end_is_refused() {
        assert_eq!(layout(8, 0x1008, 0x2000, 0x3000), None);
        assert_eq!(layout(8, 0x1000, 0x2001, 0x3000), None);
        assert_eq!(layout(8, 0x1000, 0x2000, 0x3002), None);
        assert_eq!(layout(8, u64::MAX - 15, 0x2000, 0x3000), None);
        assert_eq!(layout(8, 0x1000, u64::MAX - 1, 0x3000), None);
        assert_eq!(layout(8, 0x1000, 0x2000, u64::MAX - 3), None);
    }
}
