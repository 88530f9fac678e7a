// SPDX-License-Identifier: Apache-2.0
//! A button whose backends are killed: no press is lost, and none comes twice.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use device_backend::shared_mem::SharedMem;
use input_backend::event::PRESS;
use loadgen::random::Random;

use crate::harness::{Harness, SIZE};

#[test]
fn presses_come_once_each_however_often_the_backend_is_killed_meanwhile() {
    const ROUNDS: usize = 60;
    let mut button = Harness::new("killed", 0xff00);
    let mut random = Random::new(17);
    button.events.offer(0..SIZE);
    let mut got = Vec::new();
    for _ in 0..ROUNDS {
        button.bring_up();
        button.press();
        // From before it has heard to after it has told the driver.
        std::thread::sleep(Duration::from_micros(random.below(400)));
        button.kill();
        got.extend(button.events(PRESS.len(), Duration::ZERO));
    }
    // One while there is no backend.
    button.press();
    button.bring_up();
    let left = PRESS.len() * (ROUNDS + 1) - got.len();
    got.extend(button.events(left + 1, Duration::from_secs(1)));
    assert_eq!(got, PRESS.repeat(ROUNDS + 1));
}

/// The next backend after one that had noted a press, published it or not, and counted it or not.
#[test]
fn press_that_a_dead_backend_was_about_to_tell_comes_if_it_was_not_told() {
    for (told, counted, expected) in [(false, false, 1), (true, false, 0), (true, true, 0)] {
        let mut button = Harness::new(&format!("half-{told}-{counted}"), 8);
        button.events.offer(0..SIZE);
        button.bring_up();
        if told {
            button.press();
            button.expect_presses(1);
        }
        button.kill();
        button.pressed = 1;
        let state = SharedMem::of_file(button.slot.state(), 16).unwrap();
        let note = 1 << 63 | 1 << 16 | 12_u64;
        state.at::<AtomicU64>(8).store(note, SeqCst);
        state.at::<AtomicU64>(0).store(counted.into(), SeqCst);
        button.bring_up();
        button.expect_presses(expected);
        // And the button works.
        button.press();
        button.expect_presses(1);
    }
}
