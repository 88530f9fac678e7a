// SPDX-License-Identifier: Apache-2.0
//! What a verified block holds: its own number, the number of the write that put it there, a
//! checksum, and noise that follows from these.

use crate::random::Random;

/// The first word of a block.
const MAGIC: u64 = 0x6b63_6f6c_4248_6c75;
/// Magic, block, sequence number and checksum.
const HEADER_BYTES: usize = 32;

/// A block that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It was never written by us.
    #[error("block {0} holds something foreign")]
    Foreign(u64),
    /// It holds another block.
    #[error("block {block} holds block {found}")]
    Block {
        /// The block that was looked at.
        block: u64,
        /// The block whose content it has.
        found: u64,
    },
    /// It is neither one write nor another.
    #[error("block {0} is torn or corrupt")]
    Torn(u64),
    /// It holds an older write, or one that was never made.
    #[error("block {block} holds write {found}, expected {expected}")]
    Sequence {
        /// The block.
        block: u64,
        /// The write it holds.
        found: u64,
        /// The writes it may hold.
        expected: String,
    },
}

/// Fills a block, whose length is a multiple of 8 and at least 512.
pub fn fill(bytes: &mut [u8], block: u64, sequence: u64) {
    let mut random = Random::new(block.rotate_left(32) ^ sequence);
    let mut sum = block ^ sequence.rotate_left(17);
    let (header, body) = bytes.split_at_mut(HEADER_BYTES);
    for word in body.chunks_exact_mut(8) {
        let noise = random.number();
        sum = sum.rotate_left(5) ^ noise;
        word.copy_from_slice(&noise.to_le_bytes());
    }
    let words = [MAGIC, block, sequence, sum];
    for (word, value) in header.chunks_exact_mut(8).zip(words) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// The number of the write that a block holds, once it is known to be whole and in its place.
pub fn sequence(bytes: &[u8], block: u64) -> Result<u64, Mismatch> {
    let word = |index: usize| {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(bytes.iter().skip(8 * index))
            .for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    if word(0) != MAGIC {
        return Err(Mismatch::Foreign(block));
    }
    let mut expected = vec![0; bytes.len()];
    fill(&mut expected, word(1), word(2));
    if expected != bytes {
        return Err(Mismatch::Torn(block));
    }
    if word(1) != block {
        let found = word(1);
        return Err(Mismatch::Block { block, found });
    }
    Ok(word(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_filled_says_which_write_it_is() {
        let mut bytes = vec![0; 4096];
        fill(&mut bytes, 7, 42);
        assert_eq!(sequence(&bytes, 7), Ok(42));
        assert_eq!(
            sequence(&bytes, 8),
            Err(Mismatch::Block { block: 8, found: 7 })
        );
    }

    #[test]
    fn block_torn_in_any_place_is_noticed() {
        let (mut old, mut new) = (vec![0; 4096], vec![0; 4096]);
        fill(&mut old, 7, 1);
        fill(&mut new, 7, 2);
        for cut in [24, 512, 2048, 4088] {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert_eq!(sequence(&torn, 7), Err(Mismatch::Torn(7)));
        }
        assert_eq!(sequence(&[0; 4096], 7), Err(Mismatch::Foreign(7)));
    }
}
