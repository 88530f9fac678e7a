// SPDX-License-Identifier: Apache-2.0
//! What becomes of an upgrade, by what the new program shows.

use super::*;

/// An upgrade whose new program has been found fit.
fn found_fit() -> World {
    let mut world = World::new();
    for heard in [device(DeviceNews::Connected), FromVmm::Started] {
        world.step(Event::Heard(heard));
        world.step(Event::Pass(10));
    }
    world.step(Event::Beats(0));
    world.step(Event::Upgrade);
    world.step(Event::Heard(device(DeviceNews::Fit)));
    world.step(Event::Pass(10));
    world
}

/// An upgrade whose new program has taken over and completed something.
fn taken_over() -> World {
    let mut world = found_fit();
    for news in [DeviceNews::Drained, DeviceNews::Connected] {
        world.step(Event::Heard(device(news)));
        world.step(Event::Pass(10));
    }
    world.step(Event::Claims(0, 1, 0));
    world
}

#[test]
fn device_that_is_never_drained_can_be_restarted_in_the_end() {
    let mut world = found_fit();
    world.told.clear();
    let wait = |world: &mut World, half_seconds: u32| {
        for _ in 0..half_seconds {
            world.step(Event::Pass(500));
            world.step(Event::Beats(1));
        }
    };
    wait(&mut world, 240);
    assert!(world.told.is_empty(), "slow storage ended the upgrade");
    wait(&mut world, 20);
    assert_eq!(world.told, [ToDevice::Resume]);
    world.step(Event::Restart);
    assert_eq!(world.asked, world.answered + 1, "the restart was refused");
    world.finish();
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
