// SPDX-License-Identifier: Apache-2.0
//! Ctrl-C and SIGTERM leave nothing behind: no process, no scratch directory, no raw terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{scratch, terminal};

/// How long what we started may take to clean up after itself.
const GRACE: Duration = Duration::from_secs(5);

static STOPPING: AtomicBool = AtomicBool::new(false);

/// Returns at once, unless a signal is ending this process: then what failed did so because of that,
/// and there is nothing more to say.
pub(crate) fn wait_if_stopping() {
    while STOPPING.load(Ordering::Acquire) {
        thread::park();
    }
}

/// Starts the thread that waits for a signal to stop.
pub(crate) fn install() -> Result<()> {
    e2e::procs::adopt_orphans().context("cannot become the parent of orphans")?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            STOPPING.store(true, Ordering::Release);
            terminal::restore();
            eprintln!("xtask: stopping");
            e2e::procs::end_descendants(GRACE);
            scratch::remove_all();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
