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

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::vm::{PATIENCE, Vm};

/// Gives an order; returns the answer.
///
/// # Errors
/// When none comes.
pub fn order(vm: &mut Vm, order: char) -> Result<u32> {
    vm.type_text(&order.to_string())?;
    vm.wait_for(&order.to_string(), PATIENCE)?;
    let answer = vm.line()?;
    u32::from_str_radix(&answer, 16).with_context(|| format!("{order} is answered with {answer:?}"))
}

/// Gives an order again and again until the answer is as it shall be.
///
/// # Errors
/// When it never is.
pub fn until(vm: &mut Vm, letter: char, right: impl Fn(u32) -> bool) -> Result<u32> {
    let begun = Instant::now();
    loop {
        let answer = order(vm, letter)?;
        if right(answer) {
            return Ok(answer);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{letter} is still answered with {answer:#x}"
        );
    }
}
