// SPDX-License-Identifier: Apache-2.0
//! Says what is going on, on standard error, at least every ten seconds.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);
const WORTH_A_LINE: Duration = Duration::from_secs(2);

/// One line about what happens next.
pub(crate) fn say(what: impl std::fmt::Display) {
    eprintln!("==> {what}");
}

/// Announces `what`, does it, and says how it goes while it lasts.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    say(what);
    let started = Instant::now();
    let (done, finished) = channel::<()>();
    let label = what.to_owned();
    let ticker = thread::spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(EVERY) {
            eprintln!("    … {label} ({} s)", started.elapsed().as_secs());
        }
    });
    let outcome = work();
    drop(done);
    // The ticker has nothing to fail with.
    let _ = ticker.join();
    if outcome.is_ok() && started.elapsed() > WORTH_A_LINE {
        eprintln!("    done in {} s", started.elapsed().as_secs());
    }
    outcome
}
