// SPDX-License-Identifier: Apache-2.0
//! The part of a configuration space that a frontend reads.

/// The most that a frontend may read; beyond the device's own space it reads zeroes.
const MAX_BYTES: usize = 256;

/// `size` bytes of `space` from `offset` on; none if they are out of range.
pub fn part(space: impl IntoIterator<Item = u8>, offset: u32, size: u32) -> Vec<u8> {
    let (offset, size) = (offset as usize, size as usize);
    if offset.saturating_add(size) > MAX_BYTES {
        return Vec::new();
    }
    let zeroes = std::iter::repeat(0);
    let endless = space.into_iter().chain(zeroes);
    endless.skip(offset).take(size).collect()
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn part_beyond_the_devices_own_reads_as_zeroes_and_beyond_all_as_nothing() {
        assert_eq!(part([1, 2, 3], 1, 4), [2, 3, 0, 0]);
        assert_eq!(part([1, 2, 3], 252, 4), [0; 4]);
        for (offset, size) in [(253, 4), (u32::MAX, 1), (0, u32::MAX)] {
            assert!(part([1, 2, 3], offset, size).is_empty());
        }
    }
}
