// SPDX-License-Identifier: Apache-2.0
//! The escape key: Ctrl-a, and the key after it.

/// Ctrl-a.
const PREFIX: u8 = 0x01;

/// A command of the user to us instead of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Detach, or end the VM.
    Quit,
    /// Show the commands.
    Help,
}

/// Finds commands in the input.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    prefixed: bool,
}

impl Escape {
    /// Appends the guest's input to `output`, up to the first command; drops the input after that.
    /// A prefix before any other key goes to the guest together with it.
    pub(crate) fn filter(&mut self, input: &[u8], output: &mut Vec<u8>) -> Option<Wish> {
        for &byte in input {
            match (std::mem::take(&mut self.prefixed), byte) {
                (true, b'x') => return Some(Wish::Quit),
                (true, b'h') => return Some(Wish::Help),
                (true, b'c' | PREFIX) => output.push(PREFIX),
                (true, other) => output.extend([PREFIX, other]),
                (false, PREFIX) => self.prefixed = true,
                (false, other) => output.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(chunks: &[&[u8]]) -> (Vec<u8>, Option<Wish>) {
        let (mut escape, mut output) = (Escape::default(), Vec::new());
        let wish = chunks
            .iter()
            .find_map(|chunk| escape.filter(chunk, &mut output));
        (output, wish)
    }

    #[test]
    fn keys_without_prefix_are_the_guests() {
        let all: Vec<u8> = (0..=255).filter(|&b| b != PREFIX).collect();
        assert_eq!(filtered(&[&all]), (all, None));
    }

    #[test]
    fn prefix_and_key_is_a_wish_even_in_two_reads() {
        assert_eq!(filtered(&[b"a\x01x"]), (b"a".to_vec(), Some(Wish::Quit)));
        assert_eq!(filtered(&[b"\x01", b"h"]), (Vec::new(), Some(Wish::Help)));
    }

    #[test]
    fn prefix_reaches_the_guest_when_asked_for_or_before_another_key() {
        assert_eq!(filtered(&[b"\x01c"]), (vec![PREFIX], None));
        assert_eq!(filtered(&[b"\x01\x01x"]), (b"\x01x".to_vec(), None));
        assert_eq!(filtered(&[b"\x01e"]), (b"\x01e".to_vec(), None));
    }
}
