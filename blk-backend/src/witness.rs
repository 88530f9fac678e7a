// SPDX-License-Identifier: Apache-2.0
//! What a backend must know before it may report that data is on stable storage.
//!
//! Linux reports a write-back error once for each open file description. It may have reported one
//! to an earlier generation that died before it could tell the driver; this process's own
//! description is too new for that error. While this process starts, the jailer syncs the
//! description that is as old as the VM. Until its result is there, flushes wait; if writes were
//! lost, the waiting flushes fail, or else the next one.
//!
//! The control thread writes it, the workers read it.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::io::{Io, Op};

/// There is no loss to report, or it was reported.
const SETTLED: u8 = 0;
/// The result is not there yet.
const AWAITED: u8 = 1;
/// Writes were lost, and no flush has failed yet.
const LOST: u8 = 2;
/// Writes were lost, and a flush has failed.
const TOLD: u8 = 3;

/// Whether earlier writes are on stable storage.
#[derive(Debug, Default)]
pub struct Witness(AtomicU8);

impl Witness {
    /// Makes flushes wait for a result.
    pub fn expect(&self) {
        self.0.store(AWAITED, Relaxed);
    }

    /// Sets the result.
    pub fn answer(&self, lost: bool) {
        let state = if lost { LOST } else { SETTLED };
        // Ignore a result that nothing waits for.
        let _ = self.0.compare_exchange(AWAITED, state, Release, Relaxed);
    }

    /// Whether an operation must wait for the result.
    pub fn holds(&self, io: &Io) -> bool {
        self.is_awaited() && promises(io)
    }

    /// Whether the result is not there yet.
    pub fn is_awaited(&self) -> bool {
        self.0.load(Acquire) == AWAITED
    }

    /// Whether an operation must fail in order to report the loss to the driver.
    pub fn fails(&self, io: &Io) -> bool {
        promises(io) && self.0.compare_exchange(LOST, TOLD, AcqRel, Acquire).is_ok()
    }

    /// Whether the operations that have waited for the result must fail.
    pub fn fails_held(&self) -> bool {
        let _ = self.0.compare_exchange(LOST, TOLD, AcqRel, Acquire);
        self.0.load(Acquire) == TOLD
    }
}

/// Whether the completion of an operation promises that data is on stable storage.
fn promises(io: &Io) -> bool {
    match io.op() {
        Op::Flush => true,
        Op::Write | Op::WriteZeroes { .. } => io.durable(),
        Op::Read | Op::Discard => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(op: Op, durable: bool) -> Io {
        let mut io = Io::default();
        io.clear(durable);
        io.set(op, 0, 512);
        io
    }

    #[test]
    fn flushes_and_durable_writes_wait_for_the_answer_and_nothing_else_does() {
        let zeroes = Op::WriteZeroes { unmap: true };
        let witness = Witness::default();
        assert!(
            !witness.holds(&io(Op::Flush, false)),
            "no probe is on its way"
        );
        witness.expect();
        let held = [Op::Read, Op::Discard, Op::Write, zeroes, Op::Flush];
        let held = held.map(|op| [witness.holds(&io(op, false)), witness.holds(&io(op, true))]);
        let expected = [
            [false; 2],
            [false; 2],
            [false, true],
            [false, true],
            [true; 2],
        ];
        assert_eq!(held, expected);
        witness.answer(false);
        assert!(!witness.holds(&io(Op::Flush, false)));
        assert!(!witness.fails(&io(Op::Flush, false)) && !witness.fails_held());
    }

    #[test]
    fn loss_fails_the_first_flush_alone() {
        let witness = Witness::default();
        witness.expect();
        witness.answer(true);
        assert!(!witness.fails(&io(Op::Read, false)) && !witness.fails(&io(Op::Write, false)));
        assert!(witness.fails(&io(Op::Flush, false)));
        assert!(!witness.fails(&io(Op::Flush, false)));
    }

    #[test]
    fn loss_fails_all_flushes_that_have_waited_on_any_queue() {
        let witness = Witness::default();
        witness.expect();
        witness.answer(true);
        assert!(witness.fails_held() && witness.fails_held());
        assert!(!witness.fails(&io(Op::Flush, false)), "the driver was told");
    }

    #[test]
    fn answer_that_nobody_waits_for_changes_nothing() {
        let witness = Witness::default();
        witness.answer(true);
        assert!(!witness.fails(&io(Op::Flush, false)));
    }
}
