// SPDX-License-Identifier: Apache-2.0
//! Parses keys from a terminal's input, which may arrive in pieces. (termion's parser panics at a piece,
//! and at sequences that it does not know.)

/// A key with a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// `q` or Ctrl-c.
    Quit,
    /// The arrow, or `k`.
    Up,
    /// The arrow, or `j`.
    Down,
}

/// The parser's state within an escape sequence.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC [ or ESC O, up to the final letter.
    Sequence,
}

/// The key parser.
#[derive(Debug, Default)]
pub(super) struct Keys {
    state: State,
}

impl Keys {
    /// The keys in a piece of input.
    pub(super) fn of(&mut self, input: &[u8]) -> Vec<Key> {
        input.iter().filter_map(|byte| self.next(*byte)).collect()
    }

    fn next(&mut self, byte: u8) -> Option<Key> {
        let (state, key) = match (self.state, byte) {
            (_, 0x1b) => (State::Escape, None),
            (State::Escape, b'[' | b'O') => (State::Sequence, None),
            (State::Sequence, b'A') => (State::Ground, Some(Key::Up)),
            (State::Sequence, b'B') => (State::Ground, Some(Key::Down)),
            (State::Sequence, 0x40..=0x7e) => (State::Ground, None),
            (State::Sequence, _) => (State::Sequence, None),
            (State::Ground | State::Escape, b'q' | 3) => (State::Ground, Some(Key::Quit)),
            (State::Ground | State::Escape, b'k') => (State::Ground, Some(Key::Up)),
            (State::Ground | State::Escape, b'j') => (State::Ground, Some(Key::Down)),
            (State::Ground | State::Escape, _) => (State::Ground, None),
        };
        self.state = state;
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_whole_or_in_pieces() {
        let input = b"\x1b[A\x1bOBjkxq";
        let wanted = [Key::Up, Key::Down, Key::Down, Key::Up, Key::Quit];
        assert_eq!(Keys::default().of(input), wanted);
        let mut keys = Keys::default();
        let pieces: Vec<_> = input.iter().flat_map(|b| keys.of(&[*b])).collect();
        assert_eq!(pieces, wanted);
    }

    #[test]
    fn sequences_of_other_keys_mean_nothing() {
        for input in [&b"\x1b[1;5A"[..4], b"\x1b[15~", b"\x1b[200~", b"\x1b\x1b["] {
            assert_eq!(Keys::default().of(input), [], "{input:?}");
        }
        assert_eq!(Keys::default().of(b"\x1b[15~q"), [Key::Quit]);
        assert_eq!(Keys::default().of(b"\x03"), [Key::Quit]);
    }
}
