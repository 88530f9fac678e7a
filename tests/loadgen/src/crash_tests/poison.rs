// SPDX-License-Identifier: Apache-2.0
//! A request that kills every backend that looks at it, in the midst of others that do not.
//!
//! The poison is real: its header lies in a page of guest memory that is taken away as soon as the
//! backend has mapped it, so that touching it is a SIGBUS. Guest memory of a VM is sealed against
//! that; the harness's is not.

use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use super::{BLOCK_BYTES, CrashTestError, FEATURES, Harness, PATIENCE};
use crate::disk::{Completion, Kind, Request};
use crate::supervised::Generation;

/// So many deaths are too many.
const DEATHS_MAX: u32 = 10;

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many backends died of it.
    pub deaths: u32,
    /// How many requests were made beside it.
    pub others: usize,
    /// How many of them were good.
    pub good: usize,
    /// How the poison was answered.
    pub poison: Option<u8>,
}

/// Offers the poison between other requests, and starts backends until everything is answered or
/// too many have died.
pub fn run(harness: &mut Harness) -> Result<Outcome, CrashTestError> {
    let poison = harness.options.depth / 2;
    let mut outcome = Outcome::default();
    for slot in 0..harness.options.depth {
        if slot == poison {
            let header = harness.memory.last_page();
            harness.queues[0].prepare_with_header_at(slot, header);
        } else {
            let request = Request {
                kind: Kind::Write,
                sector: 8 * u64::from(slot),
                len_bytes: BLOCK_BYTES,
            };
            harness.queues[0].prepare(&harness.memory, slot, request);
            outcome.others += 1;
        }
    }
    harness.queues[0].show()?;
    while outcome.poison.is_none() && outcome.deaths < DEATHS_MAX {
        live(harness, poison, &mut outcome)?;
    }
    Ok(outcome)
}

/// One backend, until it dies or all is answered.
fn live(harness: &mut Harness, poison: u16, outcome: &mut Outcome) -> Result<(), CrashTestError> {
    harness.memory.lose_last_page(false)?;
    let mut generation = harness.slot.start(outcome.deaths > 0)?;
    let mut connection = harness.connect()?;
    connection.share(FEATURES, &harness.memory)?;
    harness.memory.lose_last_page(true)?;
    // It may die before it has answered the last message.
    let started = connection.start_rings(&harness.places);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        while let Some(Completion { slot, status, .. }) = harness.queues[0].reap()? {
            if slot == poison {
                outcome.poison = Some(status);
            } else {
                outcome.good += usize::from(status == 0);
            }
        }
        if harness.queues[0].ring.outstanding() == 0 {
            started?;
            generation.kill()?.ok_or(CrashTestError::Unfenced)?;
            return Ok(());
        }
        if has_died(&mut generation)? {
            outcome.deaths += 1;
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(CrashTestError::Quiet(PATIENCE))
}

fn has_died(generation: &mut Generation) -> Result<bool, CrashTestError> {
    match generation.ended()? {
        None => Ok(false),
        Some(status) if status.signal() == Some(libc::SIGBUS) => {
            generation.drain()?.ok_or(CrashTestError::Unfenced)?;
            Ok(true)
        }
        Some(status) => Err(CrashTestError::Ended(status)),
    }
}
