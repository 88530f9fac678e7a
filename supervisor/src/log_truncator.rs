// SPDX-License-Identifier: Apache-2.0
//! Limits the length of the VM's log. Every process of the VM can append to it, may be compromised,
//! and could fill the host's file system.

use std::io;

use handover::host_resources::Log;

use crate::profile::LOG_BYTES_MAX;

const SECOND_NS: u64 = 1_000_000_000;
/// How soon the supervisor looks again when it is awake for another reason: while a backend lives,
/// its pings wake it.
const SOON_NS: u64 = SECOND_NS;
/// How soon it looks again in any case. Without a backend only the vmm can write.
const LATE_NS: u64 = 5 * SECOND_NS;
/// How much of a log is kept when it is cut: its beginning tells more than what filled it.
const KEPT_BYTES: u64 = 1 << 20;

/// Cuts the VM's log when it is too long.
#[derive(Debug, Default)]
pub(crate) struct LogTruncator {
    looked_ns: u64,
}

impl LogTruncator {
    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.looked_ns + LATE_NS
    }

    /// Cuts the log if it has become too long.
    pub(crate) fn tick(&mut self, log: &Log, now_ns: u64) {
        if now_ns < self.looked_ns + SOON_NS {
            return;
        }
        self.looked_ns = now_ns;
        match cut(log) {
            Ok(None) => {}
            Ok(Some(len)) => log::error!("the log was cut: it was {len} bytes long"),
            Err(error) => log::error!("the log cannot be cut: {error}"),
        }
    }
}

/// Cuts the log if it is too long; returns how long it was.
fn cut(log: &Log) -> io::Result<Option<u64>> {
    let len = log.writer.metadata()?.len();
    if len <= LOG_BYTES_MAX {
        return Ok(None);
    }
    log.writer.set_len(KEPT_BYTES)?;
    Ok(Some(len))
}
