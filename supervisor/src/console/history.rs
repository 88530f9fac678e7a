// SPDX-License-Identifier: Apache-2.0
//! The last of what the guest has written, whether a client has read it or not. Every byte has a
//! number, counted from the start of the VM, so that a client that follows knows where it is.

use std::collections::VecDeque;

use spec::api::CONSOLE_KEPT_BYTES;

/// The last [`CONSOLE_KEPT_BYTES`] of the guest's output.
#[derive(Debug, Default)]
pub(crate) struct History {
    kept: VecDeque<u8>,
    /// How many bytes the guest has written.
    written: u64,
}

impl History {
    /// Adds output, and forgets the oldest beyond the limit.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(CONSOLE_KEPT_BYTES)..];
        let overflow = (self.kept.len() + kept.len()).saturating_sub(CONSOLE_KEPT_BYTES);
        self.kept.drain(..overflow);
        self.kept.extend(kept);
        self.written += bytes.len() as u64;
    }

    /// The number of the oldest byte that is kept.
    pub(crate) fn begin(&self) -> u64 {
        self.written - self.kept.len() as u64
    }

    /// The number of the next byte.
    pub(crate) fn end(&self) -> u64 {
        self.written
    }

    /// What was written from byte `from` on; `None` if that is not kept any more.
    pub(crate) fn since(&self, from: u64) -> Option<Vec<u8>> {
        let skipped = usize::try_from(from.checked_sub(self.begin())?).ok()?;
        Some(self.kept.iter().skip(skipped).copied().collect())
    }

    /// All that is kept.
    pub(crate) fn all(&self) -> Vec<u8> {
        self.kept.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_gives_what_was_written_since_any_byte_that_it_keeps() {
        let mut history = History::default();
        history.push(b"abc");
        history.push(b"def");
        assert_eq!(history.since(0).unwrap(), b"abcdef");
        assert_eq!(history.since(4).unwrap(), b"ef");
        assert_eq!(history.since(6).unwrap(), b"");
        assert_eq!((history.begin(), history.end()), (0, 6));
    }

    #[test]
    fn history_keeps_the_end_and_says_so_to_those_who_are_behind() {
        let mut history = History::default();
        history.push(b"old");
        history.push(&[b'a'; CONSOLE_KEPT_BYTES - 1]);
        assert_eq!(history.begin(), 2);
        assert_eq!(history.since(1), None);
        assert_eq!(history.since(2).unwrap().len(), CONSOLE_KEPT_BYTES);
        history.push(&[b'z'; 2 * CONSOLE_KEPT_BYTES]);
        assert_eq!(history.all(), [b'z'; CONSOLE_KEPT_BYTES]);
        assert_eq!(history.end(), 2 + 3 * CONSOLE_KEPT_BYTES as u64);
    }
}
