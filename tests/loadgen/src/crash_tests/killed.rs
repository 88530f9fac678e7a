// SPDX-License-Identifier: Apache-2.0
//! The backend is killed at any moment, or stays away for long, under a verified load.

use std::thread;
use std::time::{Duration, Instant};

use super::{Checked, CrashTestError, Harness, PATIENCE};
use crate::connection::Connection;
use crate::histogram::Histogram;
use crate::random::Random;
use crate::supervised::Generation;

/// How to kill.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often.
    pub kills: u32,
    /// The least and the longest time that a backend lives.
    pub lives: (Duration, Duration),
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Killed {
    /// From each kill to the next completion.
    pub pauses: Histogram,
    /// The part of them until everything that the dead one had begun was over.
    pub drains: Histogram,
    /// What the load says.
    pub checked: Checked,
}

/// Kills one backend after the other.
pub fn run(harness: &mut Harness, plan: &Plan) -> Result<Killed, CrashTestError> {
    let ((pauses, drains, last), checked) =
        harness.under_load(plan.seed, PATIENCE, |harness| kill_all(harness, plan))?;
    last.0.kill()?.ok_or(CrashTestError::Unfenced)?;
    Ok(Killed {
        pauses,
        drains,
        checked,
    })
}

/// The last backend, which has to live until the load has come to its end.
type Last = (Generation, Connection);

/// Pauses and drains.
fn kill_all(
    harness: &Harness,
    plan: &Plan,
) -> Result<(Histogram, Histogram, Last), CrashTestError> {
    let (mut pauses, mut drains) = (Histogram::default(), Histogram::default());
    let mut random = Random::new(plan.seed);
    let (least, longest) = plan.lives;
    let range = longest.saturating_sub(least).as_micros();
    let range_us = u64::try_from(range).unwrap_or(0) + 1;
    let start = harness.used();
    let mut last = harness.bring_up(false)?;
    harness.wait_beyond(&start, PATIENCE)?;
    for _ in 0..plan.kills {
        thread::sleep(least + Duration::from_micros(random.below(range_us)));
        let killed = Instant::now();
        let (generation, connection) = last;
        let drain = generation.kill()?.ok_or(CrashTestError::Unfenced)?;
        drop(connection);
        let used = harness.used();
        last = harness.bring_up(false)?;
        harness.wait_beyond(&used, PATIENCE)?;
        pauses.add(nanos(killed.elapsed()));
        drains.add(nanos(drain));
    }
    Ok((pauses, drains, last))
}

/// What came of an absence.
#[derive(Debug)]
pub struct Absent {
    /// From the return to the next completion.
    pub resumed: Duration,
    /// What the load says.
    pub checked: Checked,
}

/// Kills the backend, and brings another only after a time.
pub fn away(harness: &mut Harness, absence: Duration, seed: u64) -> Result<Absent, CrashTestError> {
    let ((resumed, last), checked) = harness.under_load(seed, absence + PATIENCE, |harness| {
        let start = harness.used();
        let (generation, _connection) = harness.bring_up(false)?;
        harness.wait_beyond(&start, PATIENCE)?;
        thread::sleep(Duration::from_millis(100));
        generation.kill()?.ok_or(CrashTestError::Unfenced)?;
        thread::sleep(absence);
        let used = harness.used();
        let returned = Instant::now();
        let last = harness.bring_up(false)?;
        harness.wait_beyond(&used, PATIENCE)?;
        let resumed = returned.elapsed();
        thread::sleep(Duration::from_millis(200));
        Ok((resumed, last))
    })?;
    last.0.kill()?.ok_or(CrashTestError::Unfenced)?;
    Ok(Absent { resumed, checked })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
