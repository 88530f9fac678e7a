// SPDX-License-Identifier: Apache-2.0
//! The length of the VM's log. Every process has it open for appending and may have been taken over;
//! the file system it is on is the host's.

use std::io;

use handover::host_resources::Log;

use crate::profile::LOG_BYTES_MAX;

const SECOND_NS: u64 = 1_000_000_000;
/// How soon it is looked at again when something else has woken the supervisor: while a backend lives,
/// its pings do.
const SOON_NS: u64 = SECOND_NS;
/// When nothing has. Then nobody is left but the vmm.
const LATE_NS: u64 = 5 * SECOND_NS;
/// What is left of a log that was cut: how it began tells more than what it was filled with.
const KEPT_BYTES: u64 = 1 << 20;

/// Looks after it.
#[derive(Debug, Default)]
pub(crate) struct LogTruncator {
    looked_ns: u64,
}

impl LogTruncator {
    /// When [`Self::tick`] is to be called at the latest.
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

/// How long it was, if that was too long.
fn cut(log: &Log) -> io::Result<Option<u64>> {
    let len = log.writer.metadata()?.len();
    if len <= LOG_BYTES_MAX {
        return Ok(None);
    }
    log.writer.set_len(KEPT_BYTES)?;
    Ok(Some(len))
}
