// SPDX-License-Identifier: Apache-2.0
//! The backend dies having asked for no kicks, or for one far away, and having published what it
//! did not call for.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, fence};

use super::{BLOCK_BYTES, CrashTestError, Harness};
use crate::connection::QueueFds;
use crate::disk::{Kind, Request};
use crate::random::Random;

/// Does it so many times; the first request after each must complete, though the driver kicks only
/// when it is asked to and sleeps until it is called. Returns how often it did.
pub fn run(harness: &mut Harness, rounds: u32, seed: u64) -> Result<u32, CrashTestError> {
    let mut random = Random::new(seed);
    let mut resumed = 0;
    for _ in 0..rounds {
        let (generation, connection) = harness.bring_up(false)?;
        write(harness, &mut random)?;
        harness.take_good(0, 1)?;
        generation.kill()?.ok_or(CrashTestError::Unfenced)?;
        drop(connection);
        leave_stale(harness, &mut random);
        let (generation, _connection) = harness.bring_up(false)?;
        write(harness, &mut random)?;
        harness.take_good(0, 1)?;
        generation.kill()?.ok_or(CrashTestError::Unfenced)?;
        resumed += 1;
    }
    Ok(resumed)
}

fn write(harness: &mut Harness, random: &mut Random) -> Result<(), CrashTestError> {
    let request = Request {
        kind: Kind::Write,
        sector: random.below(64) * 8,
        len_bytes: BLOCK_BYTES,
    };
    harness.send(0, 0, request)
}

/// What a dead backend may have left: VIRTQ_USED_F_NO_NOTIFY, and an event index that is not that
/// of the next request.
fn leave_stale(harness: &Harness, random: &mut Random) {
    let place = &harness.places[0];
    let value = u16::try_from(random.below(1 << 16)).unwrap_or(0);
    place.used.at::<AtomicU16>(0).store(1_u16.to_le(), Relaxed);
    let event = 4 + 8 * usize::from(place.size);
    place
        .used
        .at::<AtomicU16>(event)
        .store(value.to_le(), Relaxed);
    fence(std::sync::atomic::Ordering::SeqCst);
}

/// Lets backends complete requests and die without the driver having been called. Each next one
/// is connected as a first one is, and the driver must come to know. Returns how often it did.
pub fn uncalled(harness: &mut Harness, rounds: u32, seed: u64) -> Result<u32, CrashTestError> {
    let mut random = Random::new(seed);
    let mut told = 0;
    for _ in 0..rounds {
        // Calls of this generation go where no program listens: so it looks when it dies between
        // publishing and calling.
        let heard = std::mem::replace(&mut harness.places[0].fds, QueueFds::new()?.into());
        let used = harness.used();
        let (generation, connection) = harness.bring_up(false)?;
        harness.queues[0].ring.enable_calls();
        write(harness, &mut random)?;
        let deaf = std::mem::replace(&mut harness.places[0].fds, heard);
        deaf.kick.write(1)?;
        harness.wait_beyond(&used, super::PATIENCE)?;
        generation.kill()?.ok_or(CrashTestError::Unfenced)?;
        drop(connection);
        if harness.queues[0].fds.call.read().is_ok() {
            return Err(CrashTestError::Unexpected("a call came from nobody"));
        }
        let (generation, _connection) = harness.bring_up(false)?;
        if harness.queues[0].fds.call.read().is_err() {
            return Err(CrashTestError::Unexpected("the driver was not called"));
        }
        harness.take_good(0, 1)?;
        generation.kill()?.ok_or(CrashTestError::Unfenced)?;
        told += 1;
    }
    Ok(told)
}
