// SPDX-License-Identifier: Apache-2.0
//! A device tree as text, for tests (Devicetree Specification 0.4 §5.4).

use std::fmt::Write as _;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;

/// The nodes and properties of a tree, one on a line; values as words, or as they are if they are text.
pub(super) fn text(tree: &[u8]) -> String {
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap());
    let name = |at: usize| {
        let len = tree[at..].iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8_lossy(&tree[at..at + len]).into_owned()
    };
    let (mut at, strings) = (word(8) as usize, word(12) as usize);
    let (mut text, mut depth) = (String::new(), 0);
    loop {
        let token = word(at);
        at += 4;
        match token {
            BEGIN_NODE => {
                let node = name(at);
                at = (at + node.len() + 1).next_multiple_of(4);
                let _ = writeln!(text, "{:depth$}/{node}", "");
                depth += 2;
            }
            END_NODE => depth -= 2,
            PROPERTY => {
                let (len, key) = (word(at) as usize, name(strings + word(at + 4) as usize));
                let value = &tree[at + 8..at + 8 + len];
                at = (at + 8 + len).next_multiple_of(4);
                let _ = writeln!(text, "{:depth$}{key} = {}", "", shown(value));
            }
            _ => return text,
        }
    }
}

fn shown(value: &[u8]) -> String {
    let is_text = |b: &u8| *b == 0 || b.is_ascii_graphic() || *b == b' ';
    if let [first, .., 0] = value
        && *first != 0
        && value.iter().all(is_text)
    {
        return format!("{:?}", String::from_utf8_lossy(&value[..value.len() - 1]));
    }
    let words = value.chunks(4);
    let words = words.map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect());
    words.collect::<Vec<String>>().join(" ")
}
