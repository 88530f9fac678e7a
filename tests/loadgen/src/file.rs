// SPDX-License-Identifier: Apache-2.0
//! A verified load on a file or block device through an operating system: what runs inside a guest
//! while its backends come and go.
//!
//! One request at a time, around the page cache, so that a pause of the disk is a pause here. A
//! read must return the last write of its block; at the end every block is read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::content::{Mismatch, fill, sequence};
use crate::pauses::Pauses;
use crate::random::Random;

/// The length of a block in bytes, and what direct I/O wants its buffers aligned to.
const BLOCK: usize = 4096;
/// One write in so many is followed by a flush.
const FLUSH_EVERY: u64 = 32;

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Blocks written.
    pub writes: u64,
    /// Blocks read and checked.
    pub reads: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that the operating system failed, and the last failure.
    pub errors: u64,
    /// The last failure.
    pub error: Option<io::Error>,
    /// Blocks that held something else.
    pub mismatches: Vec<Mismatch>,
    /// Times without a completed request.
    pub pauses: Pauses,
}

struct Lane {
    file: File,
    /// The last write of each block that was acknowledged; none if its last write failed.
    written: Vec<Option<u64>>,
    buffer: Vec<u8>,
    outcome: Outcome,
}

/// Writes and reads `blocks` blocks of `path`, which is made or overwritten, for `duration`.
pub fn run(path: &Path, blocks: u64, duration: Duration, seed: u64) -> io::Result<Outcome> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.custom_flags(libc::O_DIRECT).open(path)?;
    let count = usize::try_from(blocks.max(1)).map_err(io::Error::other)?;
    let mut lane = Lane {
        file,
        written: vec![None; count],
        buffer: vec![0; 2 * BLOCK],
        outcome: Outcome::default(),
    };
    let mut random = Random::new(seed);
    let deadline = Instant::now() + duration;
    let mut turn = 0;
    while Instant::now() < deadline {
        turn += 1;
        let block = random.below(count as u64);
        lane.write(block, turn);
        if turn % FLUSH_EVERY == 0 {
            lane.flush();
        }
        lane.read(random.below(count as u64));
    }
    (0..count as u64).for_each(|block| lane.read(block));
    Ok(lane.outcome)
}

impl Lane {
    fn write(&mut self, block: u64, turn: u64) {
        let bytes = aligned(&mut self.buffer);
        fill(bytes, block, turn);
        let result = self.file.write_all_at(bytes, block * BLOCK as u64);
        if let Some(written) = slot(&mut self.written, block) {
            *written = result.is_ok().then_some(turn);
        }
        self.outcome.writes += 1;
        self.outcome.completed(result);
    }

    fn flush(&mut self) {
        let result = self.file.sync_data();
        self.outcome.flushes += 1;
        self.outcome.completed(result);
    }

    /// Reads a block whose content is known.
    fn read(&mut self, block: u64) {
        let Some(expected) = slot(&mut self.written, block).and_then(|written| *written) else {
            return;
        };
        let bytes = aligned(&mut self.buffer);
        let result = self.file.read_exact_at(bytes, block * BLOCK as u64);
        if result.is_ok() {
            let wrong = match sequence(bytes, block) {
                Ok(found) if found == expected => None,
                Ok(found) => Some(Mismatch::Sequence {
                    block,
                    found,
                    expected: expected.to_string(),
                }),
                Err(mismatch) => Some(mismatch),
            };
            self.outcome.mismatches.extend(wrong);
        }
        self.outcome.reads += 1;
        self.outcome.completed(result);
    }
}

impl Outcome {
    fn completed(&mut self, result: io::Result<()>) {
        self.pauses.event();
        if let Err(error) = result {
            self.errors += 1;
            self.error = Some(error);
        }
    }
}

/// The part of a buffer twice a block's length that is aligned to one.
pub(crate) fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let offset = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
    &mut buffer[offset..][..BLOCK]
}

fn slot(written: &mut [Option<u64>], block: u64) -> Option<&mut Option<u64>> {
    usize::try_from(block)
        .ok()
        .and_then(|block| written.get_mut(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_written_is_read_back_without_a_mismatch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let outcome = run(&path, 64, Duration::from_millis(100), 1).unwrap();
        assert!(outcome.writes > 0 && outcome.reads > 0);
        assert_eq!((outcome.errors, outcome.mismatches), (0, Vec::new()));
    }

    #[test]
    fn block_changed_by_others_is_a_mismatch() {
        let file = tempfile::tempfile().unwrap();
        let mut lane = Lane {
            file,
            written: vec![None; 2],
            buffer: vec![0; 2 * BLOCK],
            outcome: Outcome::default(),
        };
        lane.write(1, 1);
        lane.written[1] = Some(2);
        lane.read(1);
        assert!(matches!(
            lane.outcome.mismatches[..],
            [Mismatch::Sequence {
                block: 1,
                found: 1,
                ..
            }]
        ));
    }
}
