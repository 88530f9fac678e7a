// SPDX-License-Identifier: Apache-2.0
//! A guest that drives the first two devices, which are disks, and verifies them: eight requests at a
//! time on each, writes of 4 KiB that are read back and compared. It takes orders from COM1: `0` and `1`
//! reset a disk with all that is outstanding, `R` reboots the machine, `Q` powers it off.
//!
//! What is not as it must be is said on COM1 as a line `FAULT …`, and the machine is powered off: `used` if
//! the device completes what it was not asked for, `status` if a request fails, `content` if a block
//! holds something else than was written last.
//!
//! Each word of a block is one more than the word before it, so that a torn block is known without the
//! guest. Blocks of a slot: [`BLOCKS_PER_SLOT`], and no other slot touches them. Numbers of writes begin with
//! the time-stamp counter, so that they are others after a reboot.

/// Slots of each disk, and the blocks that belong to each.
const SLOTS: usize = 8;
const BLOCKS_PER_SLOT: usize = 16;
/// Blocks of each disk that are written.
pub const BLOCKS: usize = SLOTS * BLOCKS_PER_SLOT;
/// The length of a block.
pub const BLOCK_BYTES: usize = 4096;

/// Whether a block was never written, or holds one write as a whole.
#[must_use]
pub fn is_whole(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<4>();
    let words: Vec<_> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let rises = |pair: &[u32]| pair[1] == pair[0].wrapping_add(1);
    rest.is_empty() && (block.iter().all(|byte| *byte == 0) || words.windows(2).all(rises))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_of_two_writes_is_torn() {
        let write = |first: u32| -> Vec<u8> {
            let words = (first..first + 1024).flat_map(u32::to_le_bytes);
            words.collect()
        };
        let (old, new) = (write(7), write(700));
        assert!(is_whole(&old) && is_whole(&[0; 4096]));
        assert!(!is_whole(&[&new[..512], &old[512..]].concat()));
        assert!(!is_whole(&[&new[..512], &[0; 3584]].concat()));
    }
}
