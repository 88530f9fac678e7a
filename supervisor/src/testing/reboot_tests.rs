// SPDX-License-Identifier: Apache-2.0
//! What becomes of a guest that reboots, by what happens to the backend meanwhile.

use ipc::control::Ending;

use super::*;

/// A guest that has rebooted: there is a fresh vmm, and a fresh backend to which it has not connected.
fn rebooting() -> World {
    let mut world = World::new();
    for heard in [device(DeviceNews::Connected), FromVmm::Started] {
        world.step(Event::Incoming(heard));
    }
    reboot(&mut world);
    world
}

/// The vmm says that the guest reboots, and exits; the next one follows.
fn reboot(world: &mut World) {
    let (vmms, backends) = (world.lifecycle.reboots(), world.cast.borrow().len());
    world.step(Event::Incoming(FromVmm::Ended(Ending::Reboot)));
    world.step(Event::VmmDies);
    while world.vmm != Some(None) {
        world.step(Event::Pass(10));
    }
    assert_eq!(world.lifecycle.reboots(), vmms + 1);
    let tried = world.cast.borrow().len();
    assert!(tried == backends + 1 || world.told.is_empty());
}

/// The fresh vmm gets to its guest, whatever the last backend was; the device serves.
fn starts(mut world: World) {
    world.step(Event::Incoming(FromVmm::Waiting));
    for _ in 0..20 {
        world.step(Event::Pass(100));
    }
    assert!(world.told.contains(&ToDevice::Attach), "{world:?}");
    world.told.clear();
    for heard in [device(DeviceNews::Connected), FromVmm::Started] {
        world.step(Event::Incoming(heard));
    }
    assert_eq!(world.slot.info().state, DeviceState::Serving);
    assert_eq!(world.lifecycle.running(), VmState::Running);
    world.finish();
}

#[test]
fn backend_that_dies_at_the_first_start_ends_the_vm() {
    let mut world = World::new();
    world.step(Event::Dies(0, None));
    assert!(world.outcome_of_vm.is_some());
}

#[test]
fn backend_that_dies_while_the_guest_reboots_is_followed_by_another() {
    for deaths in 1..=3 {
        let mut world = rebooting();
        for _ in 0..deaths {
            world.step(Event::Dies(0, None));
            world.step(Event::Pass(200));
        }
        assert_eq!(world.cast.borrow().len(), 2 + deaths);
        starts(world);
    }
}

#[test]
fn backend_that_dies_after_the_fresh_vmm_has_connected_is_followed_by_another() {
    let mut world = rebooting();
    world.step(Event::Incoming(device(DeviceNews::Connected)));
    world.step(Event::Dies(0, Some(1)));
    world.step(Event::Incoming(device(DeviceNews::Lost("closed".into()))));
    starts(world);
}

#[test]
fn backend_that_cannot_be_had_while_the_guest_reboots_is_tried_again() {
    for (prepared, started) in [(1, 0), (0, 1), (2, 1)] {
        let mut world = World::new();
        for heard in [device(DeviceNews::Connected), FromVmm::Started] {
            world.step(Event::Incoming(heard));
        }
        world.step(Event::CannotBe(prepared, started));
        reboot(&mut world);
        starts(world);
    }
}

#[test]
fn device_that_stalls_while_the_guest_reboots_is_brought_back_by_a_restart() {
    let mut world = rebooting();
    while world.slot.info().state != DeviceState::Stalled {
        world.step(Event::Dies(0, None));
        world.step(Event::Pass(1000));
    }
    assert_eq!(world.vmm, Some(None), "the vmm waits");
    world.step(Event::Pass(60_000));
    assert_eq!(world.slot.info().state, DeviceState::Stalled);
    world.step(Event::Restart);
    starts(world);
}

#[test]
fn backend_is_not_blamed_for_a_vmm_that_takes_long_to_build_its_machine() {
    let mut world = rebooting();
    let lives = |world: &World| world.cast.borrow().last().unwrap().death.is_none();
    for _ in 0..60 {
        world.step(Event::Pass(1000));
    }
    assert!(lives(&world), "killed by a vmm that was slow");
    world.step(Event::Incoming(FromVmm::Waiting));
    world.step(Event::Pass(2000));
    assert!(lives(&world), "killed too early");
    world.step(Event::Pass(1001));
    assert!(
        !lives(&world),
        "one that answers nobody is waited for, for ever"
    );
    starts(world);
}
