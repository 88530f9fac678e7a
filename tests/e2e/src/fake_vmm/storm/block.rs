// SPDX-License-Identifier: Apache-2.0
//! What a driver knows of one block: which writes it may hold.

use loadgen::content::{Mismatch, sequence};
use loadgen::lane::{Known, May};

/// A block. Write 0 is the block of a disk that was never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// The write that the first read found; nothing is known before.
    pub(super) first: Option<u64>,
    /// The last write that was acknowledged, or was found.
    pub(super) least: u64,
    /// The last write that was submitted.
    pub(super) most: u64,
}

impl Known for Block {
    fn may(&self) -> May {
        match self.first {
            None => May::Read,
            Some(_) => May::Both,
        }
    }

    fn submitted(&mut self, next: &mut u64) -> u64 {
        *next += 1;
        self.most = *next;
        self.most
    }

    fn acknowledged(&mut self) -> u64 {
        self.least = self.most;
        self.least
    }

    fn found(&mut self, bytes: &[u8], number: u64) -> Result<(), Mismatch> {
        let found = match bytes.iter().all(|byte| *byte == 0) {
            true => 0,
            false => sequence(bytes, number)?,
        };
        if self.first.is_some() && !(self.least..=self.most).contains(&found) {
            return Err(Mismatch::Sequence {
                block: number,
                found,
                expected: format!("{} to {}", self.least, self.most),
            });
        }
        self.first.get_or_insert(found);
        // Whatever was outstanding when the device was reset has been done or never will be.
        (self.least, self.most) = (found, found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadgen::content::fill;

    fn bytes(write: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        if write > 0 {
            fill(&mut bytes, 7, write);
        }
        bytes
    }

    #[test]
    fn block_may_hold_what_was_outstanding_at_a_reset_until_it_was_read() {
        let mut block = Block::default();
        block.found(&bytes(40), 7).unwrap();
        block.submitted(&mut 40);
        block.acknowledged();
        block.submitted(&mut 41);
        assert!(block.clone().found(&bytes(42), 7).is_ok());
        block.found(&bytes(41), 7).unwrap();
        assert!(block.found(&bytes(42), 7).is_err(), "it was done late");
        assert_eq!(block.first, Some(40));
    }

    #[test]
    fn block_whose_write_was_lost_is_found() {
        let mut block = Block::default();
        block.found(&bytes(0), 7).unwrap();
        block.submitted(&mut 4);
        block.acknowledged();
        assert!(block.clone().found(&bytes(0), 7).is_err());
        assert!(block.found(&[0xee; 512], 7).is_err());
    }
}
