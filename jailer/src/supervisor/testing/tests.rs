// SPDX-License-Identifier: Apache-2.0
//! What becomes of an upgrade, by what the new program shows.

use super::*;

/// An upgrade whose new program has taken over and completed something.
fn taken_over() -> World {
    let mut world = World::new();
    let steps = [
        device(DeviceNews::Connected),
        FromVmm::Started,
        device(DeviceNews::Fit),
        device(DeviceNews::Drained),
        device(DeviceNews::Connected),
    ];
    for (number, heard) in steps.into_iter().enumerate() {
        if number == 2 {
            world.step(Event::Beats(0));
            world.step(Event::Upgrade);
        }
        world.step(Event::Heard(heard));
        world.step(Event::Pass(10));
    }
    world.step(Event::Claims(0, 1, 0));
    world
}

#[test]
fn program_that_completes_and_lives_is_the_next() {
    let mut world = taken_over();
    for _ in 0..4 {
        world.step(Event::Beats(0));
        world.step(Event::Pass(10));
    }
    assert_eq!(world.upgraded, 1);
    world.finish();
}

#[test]
fn program_that_completes_and_shows_no_life_is_rolled_back() {
    let mut world = taken_over();
    for _ in 0..8 {
        world.step(Event::Pass(500));
    }
    assert_eq!(world.upgraded, 0);
    assert!(world.waiting_ns.is_empty(), "whoever asked was told");
    world.finish();
}
