// SPDX-License-Identifier: Apache-2.0
//! A button whose backend lives.

use ipc::health::HAS_DRIVER;

use crate::harness::{Harness, MOMENT, PATIENCE, SIZE};

#[test]
fn press_is_key_down_and_up_once_for_each_time_it_was_pressed() {
    // Both rings wrap meanwhile.
    let mut button = Harness::new("pressed", 0xfff0);
    button.bring_up();
    button.events.offer(0..SIZE);
    assert!(button.events(1, MOMENT).is_empty(), "it was not pressed");
    for _ in 0..40 {
        button.press();
        button.expect_presses(1);
    }
    // Told twice of the same press, and then of several at once.
    button.pressed -= 1;
    button.press();
    button.pressed += 2;
    button.press();
    button.expect_presses(3);
}

#[test]
fn press_before_there_is_a_driver_comes_as_soon_as_it_has_offered_buffers() {
    let mut button = Harness::new("early", 0);
    button.pressed = 1;
    button.bring_up();
    button.wait_for_flag(0, HAS_DRIVER);
    // Not in parts: four events need four buffers.
    button.events.offer(0..3);
    assert!(button.events(1, MOMENT).is_empty());
    button.events.offer(3..4);
    button.expect_presses(1);
}

#[test]
fn call_is_made_once_for_a_press_and_status_is_given_back() {
    let mut button = Harness::new("called", 0);
    button.bring_up();
    // The driver was called at the start, in case that a backend before had died.
    button.events.fds.call.read().unwrap();
    button.events.offer(0..SIZE);
    button.press();
    button.expect_presses(1);
    assert_eq!(button.events.fds.call.read().unwrap(), 1);

    button.status.offer(0..SIZE);
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut given_back = 0;
    while given_back < SIZE {
        assert!(std::time::Instant::now() < deadline, "status is kept");
        while let Some((_, written)) = button.status.ring.reap().unwrap() {
            assert_eq!(written, 0);
            given_back += 1;
        }
        std::thread::yield_now();
    }
}
