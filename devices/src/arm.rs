// SPDX-License-Identifier: Apache-2.0
//! Devices that only machines of Arm have. They compile, and are tested, anywhere.

pub mod gicv2m;
pub mod pl031;
pub mod pl061;

/// The identification registers of a PrimeCell at 0xfe0 to 0xffc: one byte in each word.
fn primecell_id(part: [u8; 4], offset: u64) -> Option<u8> {
    const CELL: [u8; 4] = [0x0d, 0xf0, 0x05, 0xb1];
    let index = usize::try_from(offset.checked_sub(0xfe0)? / 4).ok()?;
    part.iter().chain(&CELL).nth(index).copied()
}

/// Answers a read of a register of 32 bits with `value`, whatever the width.
fn answer(value: u32, data: &mut [u8]) {
    data.fill(0);
    let len = data.len().min(4);
    data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// The value of a write to a register of 32 bits; other widths are ignored.
fn written(data: &[u8]) -> Option<u32> {
    data.try_into().ok().map(u32::from_le_bytes)
}
