// SPDX-License-Identifier: Apache-2.0
//! What a backend must know before it may say that something is on stable storage.
//!
//! Linux tells a write-back error once for each opening of a file. A predecessor may have been told,
//! and have died before it could tell the driver; this process's own opening is too young to be told
//! again. The opening that is as old as the VM is asked by the jailer while this process starts. Until
//! the answer is there, flushes wait; if writes were lost, those that have waited fail, or the first
//! that comes.
//!
//! Written by the control thread, read by the workers.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::io::{Io, Op};

/// Nothing is to be told, or it was told.
const SETTLED: u8 = 0;
/// The answer is not there yet.
const AWAITED: u8 = 1;
/// Writes were lost, and no flush has failed yet.
const LOST: u8 = 2;
/// Writes were lost, and a flush has failed.
const TOLD: u8 = 3;

/// What is known of what was written before.
#[derive(Debug, Default)]
pub struct Witness(AtomicU8);

impl Witness {
    /// There will be an answer.
    pub fn expect(&self) {
        self.0.store(AWAITED, Relaxed);
    }

    /// This is it.
    pub fn answer(&self, lost: bool) {
        let state = if lost { LOST } else { SETTLED };
        // Whoever says something unasked says nothing.
        let _ = self.0.compare_exchange(AWAITED, state, Release, Relaxed);
    }

    /// Whether an operation has to wait for the answer.
    pub fn holds(&self, io: &Io) -> bool {
        self.is_awaited() && promises(io)
    }

    /// Whether the answer is not there yet.
    pub fn is_awaited(&self) -> bool {
        self.0.load(Acquire) == AWAITED
    }

    /// Whether an operation has to fail because nothing else has told the driver of the loss.
    pub fn fails(&self, io: &Io) -> bool {
        promises(io) && self.0.compare_exchange(LOST, TOLD, AcqRel, Acquire).is_ok()
    }

    /// Whether those that have waited for the answer have to fail.
    pub fn fails_held(&self) -> bool {
        let _ = self.0.compare_exchange(LOST, TOLD, AcqRel, Acquire);
        self.0.load(Acquire) == TOLD
    }
}

/// Whether the completion of an operation says that something is on stable storage.
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
        assert!(!witness.holds(&io(Op::Flush, false)), "nobody asks");
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
