// SPDX-License-Identifier: Apache-2.0
//! The MSI frame of a GICv2 (Arm Server Base System Architecture, appendix E: GICv2m). A GICv2 takes no
//! messages. The frame tells the guest which shared interrupts stand for them, and the guest has
//! devices write the number of one into the frame.
//!
//! No device does: the vmm knows the message, and raises the interrupt itself. So the frame only has to
//! be read, and the guest's own writes are ignored.

use super::answer;
use crate::bus::BusDevice;
use crate::interrupt::MsiMessage;

/// The length of the frame in bytes.
pub const LEN_BYTES: u64 = 0x1000;

const TYPER: u64 = 0x008;
const SETSPI: u64 = 0x040;

/// A frame.
#[derive(Debug, Clone, Copy)]
pub struct Gicv2m {
    /// The address of the frame.
    pub base: u64,
    /// The interrupt id of the first shared interrupt that stands for messages.
    pub first: u16,
    /// How many there are.
    pub count: u16,
}

impl Gicv2m {
    /// The interrupt id that a message raises; `None` if it is none of this frame's.
    pub fn interrupt(&self, message: MsiMessage) -> Option<u16> {
        let id = u16::try_from(message.data).ok()?;
        let own = id
            .checked_sub(self.first)
            .is_some_and(|nth| nth < self.count);
        (message.address == self.base + SETSPI && own).then_some(id)
    }
}

impl BusDevice for Gicv2m {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let typer = u32::from(self.first) << 16 | u32::from(self.count);
        answer(if offset == TYPER { typer } else { 0 }, data);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Gicv2m = Gicv2m {
        base: 0x0802_0000,
        first: 64,
        count: 192,
    };

    #[test]
    fn frame_tells_its_interrupts() {
        let mut data = [0; 4];
        FRAME.read(TYPER, &mut data);
        assert_eq!(u32::from_le_bytes(data), 64 << 16 | 192);
    }

    #[test]
    fn message_of_another_address_or_number_raises_nothing() {
        let raised = |address, data| FRAME.interrupt(MsiMessage { address, data });
        assert_eq!(raised(0x0802_0040, 64), Some(64));
        assert_eq!(raised(0x0802_0040, 255), Some(255));
        for (address, data) in [
            (0x0802_0040, 63),
            (0x0802_0040, 256),
            (0x0802_0040, 65_600),
            (0x0802_0044, 64),
            (0, 64),
        ] {
            assert_eq!(raised(address, data), None);
        }
    }
}
