// SPDX-License-Identifier: Apache-2.0
//! What the guest has written and no client has read yet: bounded, the oldest bytes go first.

use std::collections::VecDeque;

/// How much is kept, in bytes.
pub(crate) const CAPACITY_BYTES: usize = 64 << 10;

/// The bytes that wait for a client.
#[derive(Debug, Default)]
pub(crate) struct Backlog(VecDeque<u8>);

impl Backlog {
    /// Appends bytes and drops the oldest ones if there is no room; returns how many were dropped.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY_BYTES)..];
        let overflow = (self.0.len() + kept.len()).saturating_sub(CAPACITY_BYTES);
        self.0.drain(..overflow);
        self.0.extend(kept);
        overflow + (bytes.len() - kept.len())
    }

    /// How much fits without dropping anything.
    pub(crate) fn room(&self) -> usize {
        CAPACITY_BYTES - self.0.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The oldest bytes, in one piece.
    pub(crate) fn front(&self) -> &[u8] {
        let (front, back) = self.0.as_slices();
        if front.is_empty() { back } else { front }
    }

    /// Drops the oldest bytes: a client has read them.
    pub(crate) fn consume(&mut self, count: usize) {
        self.0.drain(..count.min(self.0.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(backlog: &mut Backlog) -> Vec<u8> {
        let mut all = Vec::new();
        while !backlog.is_empty() {
            let front = backlog.front().to_vec();
            backlog.consume(front.len());
            all.extend(front);
        }
        all
    }

    #[test]
    fn backlog_returns_what_was_written_in_order() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(b"abc") + backlog.push(b"def"), 0);
        backlog.consume(2);
        assert_eq!(content(&mut backlog), b"cdef");
    }

    #[test]
    fn backlog_overfull_drops_the_oldest_and_counts_them() {
        let mut backlog = Backlog::default();
        backlog.push(&vec![b'a'; CAPACITY_BYTES - 1]);
        assert_eq!(backlog.push(b"xyz"), 2);
        assert_eq!(backlog.room(), 0);
        let all = content(&mut backlog);
        assert_eq!(
            (all.len(), &all[all.len() - 4..]),
            (CAPACITY_BYTES, &b"axyz"[..])
        );
    }

    #[test]
    fn backlog_given_more_than_it_holds_keeps_the_end() {
        let mut backlog = Backlog::default();
        backlog.push(b"old");
        let mut flood = vec![b'a'; 2 * CAPACITY_BYTES];
        flood.push(b'z');
        assert_eq!(backlog.push(&flood), CAPACITY_BYTES + 1 + 3);
        let all = content(&mut backlog);
        assert_eq!((all.len(), all.last()), (CAPACITY_BYTES, Some(&b'z')));
    }
}
