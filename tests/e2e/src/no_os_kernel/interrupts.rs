// SPDX-License-Identifier: Apache-2.0
//! A guest that takes orders about its interrupts from COM1, one letter each, and answers each with the
//! letter and eight hexadecimal digits. The first device is a disk. Between two orders
//! it takes interrupts, one at a time.
//!
//! | order | what it does | its answer |
//! |---|---|---|
//! | `m`, `l` | resets the disk; its interrupts are messages, and both vectors are masked; or a line | |
//! | `s` | reads a sector, and waits until it is there | the request's status |
//! | `p`, `n`, `u` | the pending bits; has the queue's interrupts come by the other vector; unmasks the first | the bits; the vector |
//! | `r` | | the line's entry of the IOAPIC |
//! | `w` | keeps interrupts off from now on, or takes them again | whether they are kept off |
//! | `k`, `o` | has the serial port send an edge to a masked pin; unmasks it | |
//! | `a`, `b`, `d`, `x` | a timer of 1 ms, set anew each time; periodic; a deadline, set anew each time; none | 1 if there are deadlines |
//! | `0` to `9` | | how often it came: the disk's vectors (0, 1), the line (2), the edge (3), timers (4 to 6), early ones (8, 9) |
//! | `Q` | powers the machine off | |

use anyhow::{Context as _, Result};

/// The number in the rest of an answer, behind the letter of its order.
///
/// # Errors
/// When it is none.
pub fn answer(rest: &str) -> Result<u32> {
    u32::from_str_radix(rest, 16).with_context(|| format!("an order is answered with {rest:?}"))
}
