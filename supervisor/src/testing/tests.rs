// SPDX-License-Identifier: Apache-2.0
//! What becomes of an upgrade, by what the new program shows.

use super::*;

/// An upgrade whose new program has been found fit.
fn found_fit() -> World {
    let mut world = World::new();
    for heard in [device(DeviceNews::Connected), FromVmm::Started] {
        world.step(Event::Incoming(heard));
        world.step(Event::Pass(10));
    }
    world.step(Event::Beats(0));
    world.step(Event::Upgrade);
    world.step(Event::Incoming(device(DeviceNews::Compatible)));
    world.step(Event::Pass(10));
    world
}

/// An upgrade of a device that has stalled, whose new program has been given the device.
fn stalled_and_upgraded() -> World {
    let mut world = World::new();
    for heard in [device(DeviceNews::Connected), FromVmm::Started] {
        world.step(Event::Incoming(heard));
    }
    while world.slot.info().state != DeviceState::Stalled {
        world.step(Event::Dies(0, None));
        world.step(Event::Pass(1000));
    }
    world.step(Event::Upgrade);
    world.step(Event::Incoming(device(DeviceNews::Connected)));
    assert_eq!(world.waiting_ns.len(), 1, "told before it has served");
    world
}

/// An upgrade whose new program has taken over and completed something.
fn taken_over() -> World {
    let mut world = found_fit();
    for news in [DeviceNews::Drained, DeviceNews::Connected] {
        world.step(Event::Incoming(device(news)));
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

#[test]
fn stalled_device_keeps_its_program_if_the_new_one_is_no_better() {
    let mut world = stalled_and_upgraded();
    world.step(Event::Dies(0, Some(1)));
    world.step(Event::Pass(1000));
    assert!(world.waiting_ns.is_empty(), "whoever asked was told");
    assert_eq!(world.upgraded, 0);
    let serving = world.cast.borrow().last().map(|part| part.upgraded);
    assert_eq!(serving, Some(false), "the old program is gone");
    world.finish();
}

#[test]
fn stalled_device_gets_a_program_that_serves_it() {
    let mut world = stalled_and_upgraded();
    world.step(Event::Claims(0, 1, 0));
    for _ in 0..4 {
        world.step(Event::Beats(0));
        world.step(Event::Pass(10));
    }
    assert_eq!(world.upgraded, 1);
    world.step(Event::Dies(0, None));
    world.step(Event::Pass(1000));
    let serving = world.cast.borrow().last().map(|part| part.upgraded);
    assert_eq!(serving, Some(true), "later ones are of the new program");
    world.finish();
}
