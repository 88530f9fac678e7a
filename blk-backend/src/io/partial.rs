// SPDX-License-Identifier: Apache-2.0
//! The steps of a request that begins or ends within a block of the storage: read, change and
//! write. Pure; the engine does each step, [`super::Io`] holds the copy of the blocks.

use std::ops::Range;

use super::Op;

/// The remaining steps of a request that covers a part of a block.
#[derive(Debug)]
pub(super) struct Partial {
    /// The operation of the request.
    pub(super) op: Op,
    /// Its range in bytes of the image.
    pub(super) range: Range<u64>,
    /// The last one is in progress; the others follow, from the end.
    steps: Vec<Step>,
}

/// One operation of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Read whole blocks, a part of which the guest gets.
    Cover(Range<u64>),
    /// Read whole blocks, a part of which is changed.
    Fetch(Range<u64>),
    /// Write the changed blocks back.
    Store(Range<u64>),
    /// Zero the whole blocks between the first and the last.
    Middle(Range<u64>),
}

/// The blocks that a range touches.
pub(super) fn outward(range: &Range<u64>, block_bytes: u64) -> Range<u64> {
    range.start / block_bytes * block_bytes..range.end.next_multiple_of(block_bytes)
}

/// The blocks that are wholly in a range; empty if there are none.
pub(super) fn inward(range: &Range<u64>, block_bytes: u64) -> Range<u64> {
    let start = range.start.next_multiple_of(block_bytes);
    start..(range.end / block_bytes * block_bytes).max(start)
}

impl Partial {
    /// The steps of a request whose range does not consist of whole blocks.
    pub(super) fn new(op: Op, range: Range<u64>, block_bytes: u64) -> Self {
        let whole = outward(&range, block_bytes);
        let mut steps = match op {
            Op::Read => vec![Step::Cover(whole)],
            Op::WriteZeroes { .. } => zeroes(&range, whole, block_bytes),
            Op::Write | Op::Flush | Op::Discard => {
                vec![Step::Fetch(whole.clone()), Step::Store(whole)]
            }
        };
        steps.reverse();
        Self { op, range, steps }
    }

    /// The step in progress.
    pub(super) fn step(&self) -> Option<&Step> {
        self.steps.last()
    }

    /// The step in progress is complete.
    pub(super) fn advance(&mut self) {
        self.steps.pop();
    }

    /// The longest range of blocks to copy at a time.
    pub(super) fn copy_bytes(&self) -> u64 {
        let held = self.steps.iter().map(|step| match step {
            Step::Cover(blocks) | Step::Fetch(blocks) => blocks.end - blocks.start,
            Step::Store(_) | Step::Middle(_) => 0,
        });
        held.max().unwrap_or(0)
    }
}

/// Reads and changes the blocks at both ends, and lets the storage zero those between them.
fn zeroes(range: &Range<u64>, whole: Range<u64>, block_bytes: u64) -> Vec<Step> {
    let inner = inward(range, block_bytes);
    if inner.is_empty() {
        // One block, or two blocks that are both covered in part.
        return vec![Step::Fetch(whole.clone()), Step::Store(whole)];
    }
    let mut steps = Vec::new();
    for edge in [whole.start..inner.start, inner.end..whole.end] {
        if !edge.is_empty() {
            steps.extend([Step::Fetch(edge.clone()), Step::Store(edge)]);
        }
    }
    steps.push(Step::Middle(inner));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;
    const ZEROES: Op = Op::WriteZeroes { unmap: true };

    fn steps(op: Op, range: Range<u64>) -> Vec<Step> {
        let mut partial = Partial::new(op, range, BLOCK);
        let mut steps = Vec::new();
        while let Some(step) = partial.step().cloned() {
            steps.push(step);
            partial.advance();
        }
        steps
    }

    #[test]
    fn write_of_a_part_reads_and_writes_every_block_that_it_touches() {
        let both = |blocks: Range<u64>| vec![Step::Fetch(blocks.clone()), Step::Store(blocks)];
        assert_eq!(steps(Op::Write, 512..1024), both(0..BLOCK));
        assert_eq!(steps(Op::Write, 3584..4608), both(0..2 * BLOCK));
        assert_eq!(steps(Op::Write, 4096..8704), both(BLOCK..3 * BLOCK));
    }

    #[test]
    fn zeroes_change_the_blocks_at_the_ends_and_free_those_between() {
        let both = |blocks: Range<u64>| vec![Step::Fetch(blocks.clone()), Step::Store(blocks)];
        assert_eq!(steps(ZEROES, 512..1024), both(0..BLOCK));
        assert_eq!(steps(ZEROES, 3584..4608), both(0..2 * BLOCK));
        let all = [
            both(0..BLOCK),
            both(3 * BLOCK..4 * BLOCK),
            vec![Step::Middle(BLOCK..3 * BLOCK)],
        ];
        assert_eq!(steps(ZEROES, 512..3 * BLOCK + 512), all.concat());
        let tail = [both(BLOCK..2 * BLOCK), vec![Step::Middle(0..BLOCK)]];
        assert_eq!(steps(ZEROES, 0..BLOCK + 512), tail.concat());
    }

    #[test]
    fn blocks_wholly_in_a_range_are_found() {
        assert_eq!(inward(&(512..1024), BLOCK), BLOCK..BLOCK);
        assert_eq!(inward(&(512..8192), BLOCK), BLOCK..2 * BLOCK);
        assert_eq!(inward(&(0..BLOCK), BLOCK), 0..BLOCK);
    }

    #[test]
    fn copy_holds_the_longest_stretch_and_not_the_blocks_between() {
        let zeroes = Partial::new(ZEROES, 512..1 << 26, BLOCK);
        assert_eq!(zeroes.copy_bytes(), BLOCK);
        let write = Partial::new(Op::Write, 512..9000 / 512 * 512, BLOCK);
        assert_eq!(write.copy_bytes(), 3 * BLOCK);
    }
}
