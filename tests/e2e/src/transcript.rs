// SPDX-License-Identifier: Apache-2.0
//! Everything a stream has said so far, with waiting for what it will say.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Lines to show when something waited for did not come.
const TAIL: usize = 15;

#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    first: Option<Instant>,
    ended: bool,
}

/// A stream's bytes, collected by a thread of its own.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    shared: Arc<(Mutex<Said>, Condvar)>,
}

impl Transcript {
    /// Collects `stream` until it ends.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        let writer = transcript.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                writer.append(&buffer[..length]);
            }
            writer.said().ended = true;
            writer.shared.1.notify_all();
        });
        transcript
    }

    /// All of it, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.said().bytes).into_owned()
    }

    /// When the first byte came.
    #[must_use]
    pub fn first_byte(&self) -> Option<Instant> {
        self.said().first
    }

    /// Waits for `marker` at or after byte `from`; returns the offset just behind it.
    ///
    /// # Errors
    /// When the stream ends or `limit` passes before; says how the stream ended.
    pub fn wait_for(&self, marker: &str, from: usize, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut said = self.said();
        loop {
            if let Some(at) = find(&said.bytes, marker.as_bytes(), from) {
                return Ok(at + marker.len());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                break;
            }
            said = self
                .shared
                .1
                .wait_timeout(said, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let how = if said.ended {
            "the stream ended"
        } else {
            "the time ran out"
        };
        drop(said);
        bail!(
            "{how} waiting for {marker:?}; the last lines were:\n{}",
            self.tail()
        );
    }

    /// Waits until the stream ends, for at most `limit`.
    pub fn wait_for_end(&self, limit: Duration) {
        let said = self.said();
        let waited = self
            .shared
            .1
            .wait_timeout_while(said, limit, |said| !said.ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL)..];
        last.iter()
            .map(|line| format!("    | {}\n", line.trim_end()))
            .collect()
    }

    fn append(&self, bytes: &[u8]) {
        let mut said = self.said();
        said.first.get_or_insert_with(Instant::now);
        said.bytes.extend_from_slice(bytes);
        self.shared.1.notify_all();
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(bytes: &[u8], marker: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(marker.len())
        .position(|window| window == marker)
        .map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_said_twice_is_found_behind_the_first() {
        let transcript = Transcript::of(&b"ready, and ready again"[..]);

        let first = transcript
            .wait_for("ready", 0, Duration::from_secs(5))
            .unwrap();
        let second = transcript
            .wait_for("ready", first, Duration::from_secs(5))
            .unwrap();

        assert_eq!((first, second), (5, 16));
    }

    #[test]
    fn marker_never_said_is_an_error_that_names_it() {
        let transcript = Transcript::of(&b"something else"[..]);

        let error = transcript
            .wait_for("ready", 0, Duration::from_secs(5))
            .unwrap_err();

        assert!(error.to_string().contains("\"ready\""));
    }
}
