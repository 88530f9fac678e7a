// SPDX-License-Identifier: Apache-2.0
//! What the driver said on its console, from the first run of the guest to the last: what each run
//! found on a disk must be what the one before left there, and the image must hold what the last one
//! left.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use loadgen::content;

/// The length of a block.
const BLOCK_BYTES: usize = 4096;

/// What was said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Which writes each block may hold: of which disk, which block; from, to.
    blocks: BTreeMap<(usize, u64), (u64, u64)>,
    /// Runs of the guest that came to their end.
    pub(super) runs: u64,
    /// Sums of what all runs said, but for the longest pause.
    pub(super) sums: BTreeMap<String, u64>,
}

impl Ledger {
    /// Reads the console.
    ///
    /// # Errors
    /// When the driver tells of a fault, or a run finds what the one before cannot have left.
    pub(super) fn read(console: &str) -> Result<Self> {
        let mut ledger = Self::default();
        for line in console.lines() {
            match line.split_once(' ') {
                Some(("FAULT", what)) => bail!("the driver says: {what}"),
                Some(("BLOCK", words)) => {
                    let numbers: Result<Vec<u64>, _> = words.split(' ').map(str::parse).collect();
                    let numbers = numbers.with_context(|| line.to_owned())?;
                    let [disk, block, first, least, most] = numbers[..] else {
                        bail!("not a block: {line}");
                    };
                    ledger.block((usize::try_from(disk)?, block), first, (least, most))?;
                }
                Some(("SUM", words)) => ledger.sum(words)?,
                Some(("STORM", words)) if words.starts_with("ends") => ledger.runs += 1,
                _ => {}
            }
        }
        Ok(ledger)
    }

    fn block(&mut self, key: (usize, u64), first: u64, left: (u64, u64)) -> Result<()> {
        let (disk, block) = key;
        let range = self.blocks.entry(key).or_default();
        ensure!(
            (range.0..=range.1).contains(&first),
            "after a reboot block {block} of disk{disk} held write {first}, expected {} to {}",
            range.0,
            range.1
        );
        *range = left;
        Ok(())
    }

    fn sum(&mut self, words: &str) -> Result<()> {
        for word in words.split(' ') {
            let (name, value) = word.split_once('=').context("not a sum")?;
            let value: u64 = value.parse()?;
            let sum = self.sums.entry(name.to_owned()).or_default();
            match name {
                "longest_ms" => *sum = value.max(*sum),
                _ => *sum += value,
            }
        }
        Ok(())
    }

    /// Checks the image of a disk. How many blocks were looked at.
    ///
    /// # Errors
    /// When a block holds something else.
    pub(super) fn check(&self, disk: usize, image: &Path) -> Result<u64> {
        let file = File::open(image)?;
        let mut bytes = vec![0; BLOCK_BYTES];
        let mut checked = 0;
        for ((_, block), (least, most)) in self.blocks.iter().filter(|((of, _), _)| *of == disk) {
            file.read_exact_at(&mut bytes, block * BLOCK_BYTES as u64)?;
            let found = match bytes.iter().all(|byte| *byte == 0) {
                true => 0,
                false => content::sequence(&bytes, *block)?,
            };
            ensure!(
                (*least..=*most).contains(&found),
                "the image of disk{disk}: block {block} holds write {found}, expected {least} to {most}"
            );
            checked += 1;
        }
        ensure!(checked > 0, "nothing is known of disk{disk}");
        Ok(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_that_finds_what_the_one_before_left_is_right() {
        let console = "STORM begins\nBLOCK 0 7 0 5 6\nSUM writes=3 longest_ms=9\nSTORM ends Reboot\n\
                       BLOCK 0 7 6 12 12\nSUM writes=4 longest_ms=2\nSTORM ends PowerOff\n";
        let ledger = Ledger::read(console).unwrap();
        assert_eq!(ledger.runs, 2);
        assert_eq!((ledger.sums["writes"], ledger.sums["longest_ms"]), (7, 9));
        assert_eq!(ledger.blocks[&(0, 7)], (12, 12));
    }

    #[test]
    fn write_lost_at_a_reboot_is_found() {
        for first in [0, 4, 7] {
            let console = format!("BLOCK 0 7 0 5 6\nBLOCK 0 7 {first} 12 12\n");
            assert!(Ledger::read(&console).is_err(), "{first}");
        }
    }

    #[test]
    fn fault_that_the_driver_tells_of_is_told() {
        let error = Ledger::read("FAULT disk0: block 7 is torn\n").unwrap_err();
        assert!(error.to_string().contains("torn"));
    }
}
