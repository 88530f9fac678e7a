// SPDX-License-Identifier: Apache-2.0
//! Looks after the VM during a storm: whether it lives and its driver is content; and brings back what
//! was given up, as an operator would.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Scene;
use super::book::Outcome;

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(300);
/// How long a VM may take to end.
const ENDING: Duration = Duration::from_secs(3);

impl Scene<'_> {
    /// Watches until it is over.
    pub(super) fn watch(&self, over: &AtomicBool) {
        let mut read_bytes = 0;
        while !over.load(Ordering::SeqCst) {
            thread::sleep(EVERY);
            if self.harness.has_ended() {
                self.book.fail(format_args!(
                    "the VM has ended: {}",
                    self.harness.last_words()
                ));
                return;
            }
            if let Some(fault) = self.fault_after(&mut read_bytes) {
                self.book.fail(format_args!("the driver says: {fault}"));
                return;
            }
            let begun = Instant::now();
            match self.harness.info() {
                Ok(info) => {
                    self.book.count("look", Outcome::Done, begun);
                    for device in info["devices"].as_array().into_iter().flatten() {
                        if device["state"] == "stalled" {
                            self.revive(device["id"].as_str().unwrap_or_default());
                        }
                    }
                }
                Err(error) => {
                    return self.fail(format_args!("the API: {error:#}"));
                }
            }
        }
    }

    /// Something that is guaranteed did not hold. If the VM has ended, or is about to, that is all.
    pub(super) fn fail(&self, what: impl fmt::Display) {
        let begun = Instant::now();
        while !self.harness.has_ended() && begun.elapsed() < ENDING {
            thread::sleep(EVERY / 10);
        }
        let console = self.harness.console();
        let fault = console.lines().find_map(|line| line.strip_prefix("FAULT "));
        match (fault, self.harness.has_ended()) {
            (Some(fault), _) => self.book.fail(format_args!("the driver says: {fault}")),
            (None, true) => {
                let words = self.harness.last_words();
                self.book.fail(format_args!("the VM has ended: {words}"));
            }
            (None, false) => self.book.fail(what),
        }
    }

    /// Asks for a backend for a device that has been given up.
    fn revive(&self, device: &str) {
        let begun = Instant::now();
        match self.harness.bulkhead("restart", &[device]) {
            Ok(output) if output.status.success() => {
                self.book.count("revive", Outcome::Done, begun);
                self.book.note(format_args!("revived {device}"));
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                self.book.count("revive", Outcome::Refused, begun);
                self.book
                    .note(format_args!("cannot revive {device}: {}", said.trim()));
            }
            Err(error) => self.fail(format_args!("restart {device}: {error:#}")),
        }
    }

    /// A fault that the driver told of since the last look.
    fn fault_after(&self, read_bytes: &mut u64) -> Option<String> {
        let file = File::open(self.harness.dir().join("console")).ok()?;
        let len = file.metadata().ok()?.len();
        let mut bytes = vec![0; usize::try_from(len.saturating_sub(*read_bytes)).ok()?];
        file.read_exact_at(&mut bytes, *read_bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        // A line whose end has not come yet is looked at again.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        *read_bytes += whole as u64;
        let mut lines = text[..whole].lines();
        lines.find_map(|line| Some(line.strip_prefix("FAULT ")?.to_owned()))
    }
}
