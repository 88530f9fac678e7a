// SPDX-License-Identifier: Apache-2.0
//! The last writes to each block, of a log that would be long: as it is written, only the highest
//! numbers are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of the writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    last: BTreeMap<(u64, char), u64>,
}

impl Writes {
    /// A log that says the same in fewer lines.
    pub(crate) fn text(&self) -> String {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for ((block, what), sequence) in &state.last {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{what} {block} {sequence}");
        }
        text
    }
}

impl State {
    fn line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split(' ');
        let what = fields.next().and_then(|word| word.chars().next());
        let mut number = || fields.next()?.parse::<u64>().ok();
        if let (Some(what), Some(block), Some(sequence)) = (what, number(), number()) {
            let last = self.last.entry((block, what)).or_default();
            *last = sequence.max(*last);
        }
    }
}

impl io::Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = std::mem::take(&mut state.rest);
        all.extend_from_slice(bytes);
        let mut lines = all.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            match lines.peek() {
                Some(_) => state.line(line),
                None => state.rest = line.to_vec(),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
