// SPDX-License-Identifier: Apache-2.0
//! The length of the VM's log. Every process has it open for appending and may have been taken over;
//! the file system it is on is the host's.

use std::io;

use super::endowment::Log;
use crate::profile::LOG_BYTES_MAX;

const SECOND_NS: u64 = 1_000_000_000;
/// What is left of a log that was cut: how it began tells more than what it was filled with.
const KEPT_BYTES: u64 = 1 << 20;

/// Looks after it.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    next_ns: u64,
}

impl Cutter {
    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.next_ns
    }

    /// Cuts the log if it has become too long, once a second at the most.
    pub(crate) fn tick(&mut self, log: &Log, now_ns: u64) {
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + SECOND_NS;
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
