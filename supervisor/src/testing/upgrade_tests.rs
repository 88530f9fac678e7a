// SPDX-License-Identifier: Apache-2.0
//! What a device tells while its program is replaced, in order and in time.

use ipc::control::{DeviceNews, ToBackend};

use super::device_tests::{Device, SECOND_NS};
use super::*;
use crate::devices::script::UPGRADE_NS;

const KILLED: Death = Death::Signalled(Signal::SIGKILL);
const LOOK_NS: u64 = 5_000_000;

pub(super) fn upgrade(device: &mut Device) -> Result<(), String> {
    device.upgrade(scenery::null().into())
}

/// A device whose new backend, number 1, is being judged.
fn probing() -> Device {
    let mut device = Device::serving();
    device.pass(0);
    assert_eq!(device.pinged(0), Some(1));
    assert_eq!(upgrade(&mut device), Ok(()));
    assert_eq!(device.told(), ["UpgradeAsked", "probe"]);
    device
}

/// One whose old backend completes what it has taken.
fn draining() -> Device {
    let mut device = probing();
    device.hear(&DeviceNews::Compatible);
    assert_eq!(device.told(), ["tell Drain"]);
    device
}

/// One whose old backend was killed.
fn switching() -> Device {
    let mut device = draining();
    device.hear(&DeviceNews::Drained);
    assert_eq!(device.told(), [""; 0]);
    assert!(!device.lives(0) && device.lives(1));
    device
}

/// One whose new backend has the device, and is not connected yet.
fn switched() -> Device {
    let mut device = switching();
    assert_eq!(device.dies(0, KILLED), [""; 0]);
    let told = [
        "Fenced: 0 us after the end of its backend",
        "tell Switch",
        "BackendStarted: pid 3",
    ];
    assert_eq!(device.pass(0), told);
    device
}

/// One whose new backend is connected, and has answered the first ping.
fn on_trial() -> Device {
    let mut device = switched();
    device.hear(&DeviceNews::Connected);
    assert_eq!(device.told(), ["BackendConnected"]);
    assert_eq!(device.pass(0), [""; 0]);
    assert_eq!(device.pinged(1), Some(1));
    device
}

#[test]
fn upgrade_takes_at_most_the_sum_of_its_parts() {
    assert_eq!(UPGRADE_NS, (5 + 5 + 125 + 3 + 10) * SECOND_NS);
}

#[test]
fn upgrade_under_way_is_the_only_one_and_no_restart_is_made() {
    let mut device = probing();
    let refused = Err("it is being upgraded already".to_owned());
    assert_eq!(upgrade(&mut device), refused);
    let refused = Err("it is being upgraded".to_owned());
    assert_eq!(device.restart(), refused);
    assert_eq!(device.told(), [""; 0]);
}

#[test]
fn upgrade_without_a_backend_that_serves_is_refused() {
    let refused = Err("it has no backend that could be succeeded now".to_owned());
    let mut device = Device::serving();
    device.restart().unwrap();
    assert_eq!(upgrade(&mut device), refused, "it is being restarted");
    let mut device = Device::serving();
    device.retire();
    assert_eq!(upgrade(&mut device), refused, "the guest has ended");
    let mut device = Device::serving();
    device.dies(0, KILLED);
    device.pass(0);
    assert_eq!(upgrade(&mut device), refused, "it is not connected");
}

#[test]
fn candidate_that_is_not_judged_in_five_seconds_is_given_up() {
    let mut device = probing();
    assert_eq!(
        device.slot.deadline_ns(),
        Some(device.now_ns + SECOND_NS / 2)
    );
    assert_eq!(device.pass(5 * SECOND_NS - 1), [""; 0]);
    let why = "the vmm does not judge the new backend";
    let told = [format!("UpgradeRefused: {why}"), format!("answer: {why}")];
    assert_eq!(device.pass(1), told);
    assert!(device.lives(0) && !device.lives(1));
    device.exited();
    assert!(device.part(1, |part| part.reaped));
    assert_eq!(upgrade(&mut device), Ok(()), "it can be tried again");
}

#[test]
fn candidate_unfit_or_dead_is_refused_and_the_old_one_goes_on() {
    let mut device = probing();
    device.hear(&DeviceNews::Drained);
    device.hear(&DeviceNews::Incompatible("another size".into()));
    let why = "the new backend cannot take over: another size";
    let told = [format!("UpgradeRefused: {why}"), format!("answer: {why}")];
    assert_eq!(device.told(), told);
    let why = "the new backend was killed by SIGKILL";
    let told = [format!("UpgradeRefused: {why}"), format!("answer: {why}")];
    let mut device = probing();
    assert_eq!(device.dies(1, KILLED), told);
    assert!(device.lives(0));
    let mut device = draining();
    assert_eq!(device.dies(1, KILLED)[..2], told);
    assert!(device.lives(0));
}

#[test]
fn old_backend_that_is_not_drained_in_125_seconds_resumes() {
    let mut device = draining();
    device.hear(&DeviceNews::Compatible);
    device.hear(&DeviceNews::Incompatible("too late".into()));
    assert_eq!(device.told(), [""; 0]);
    assert_eq!(device.pass(125 * SECOND_NS - 1), [""; 0]);
    let why = "the old backend has not completed what it has taken";
    let told = [
        format!("UpgradeRefused: {why}"),
        format!("answer: {why}"),
        "tell Resume".to_owned(),
    ];
    assert_eq!(device.pass(1), told);
    assert!(device.lives(0) && !device.lives(1));
}

#[test]
fn old_backend_that_dies_ends_the_upgrade() {
    let mut device = draining();
    let died = "was killed by SIGKILL";
    let told = [
        format!("UpgradeRefused: the old backend {died}"),
        format!("answer: the old backend {died}"),
        format!("BackendDied: {died}"),
        format!("died: {died}"),
    ];
    assert_eq!(device.dies(0, KILLED), told);
    let told = device.pass(0);
    assert_eq!(told[1..], ["attach", "BackendStarted: pid 4"]);
    assert!(!device.part(2, |part| part.upgraded), "the old program");
}

#[test]
fn candidate_that_dies_once_the_old_one_is_killed_is_followed_by_the_old_program() {
    let mut device = switching();
    device.part(0, |part| part.busy = true);
    let why = "the new backend was killed by SIGKILL";
    let told = [
        format!("UpgradeRefused: {why}"),
        format!("answer: {why}"),
        "BackendDied: as asked".to_owned(),
    ];
    assert_eq!(device.dies(1, KILLED), told);
    device.part(0, |part| part.busy = false);
    let told = device.pass(0);
    assert_eq!(told[1..], ["attach", "BackendStarted: pid 4"]);
    let new = device.part(2, |part| (part.upgraded, part.after_crash));
    assert_eq!(new, (false, false));
}

#[test]
fn candidate_that_dies_while_the_old_one_s_requests_end_is_followed_by_the_old_program() {
    let mut device = switching();
    device.part(0, |part| part.busy = true);
    assert_eq!(device.dies(0, KILLED), [""; 0]);
    assert_eq!(device.dies(1, KILLED).len(), 2, "refused and answered");
    device.part(0, |part| part.busy = false);
    let told = device.pass(0);
    assert_eq!(told[1..], ["attach", "BackendStarted: pid 4"]);
    assert!(!device.part(2, |part| part.upgraded));
}

#[test]
fn new_backend_is_connected_to_within_three_seconds_or_killed() {
    let mut device = switched();
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns + LOOK_NS));
    assert_eq!(device.pass(3 * SECOND_NS - 1), [""; 0]);
    assert!(device.lives(1));
    assert_eq!(
        device.pass(1),
        ["BackendLost: the vmm did not connect to it"]
    );
    assert!(!device.lives(1));
}

#[test]
fn new_backend_that_completes_and_answers_is_the_next() {
    let mut device = on_trial();
    device.part(1, |part| part.claim(1, 0));
    assert_eq!(device.pass(LOOK_NS - 1), [""; 0]);
    assert_eq!(device.pinged(1), None, "it was looked at too early");
    assert_eq!(device.pass(1), [""; 0]);
    assert_eq!(
        device.part(1, |part| part.next_message()),
        Some(ToBackend::Ping(2))
    );
    assert_eq!(device.pass(LOOK_NS), [""; 0], "it has not answered");
    device.part(1, |part| part.answer(2));
    assert_eq!(device.pass(LOOK_NS - 1), [""; 0]);
    assert_eq!(device.pass(1), ["UpgradeDone", "answer: done"]);
    device.dies(1, KILLED);
    device.pass(0);
    assert!(
        device.part(2, |part| part.upgraded),
        "the new program stays"
    );
}

#[test]
fn new_backend_that_is_not_connected_has_not_served() {
    let mut device = switched();
    device.part(1, |part| part.claim(1, 0));
    for _ in 0..3 {
        assert_eq!(device.pass(LOOK_NS), [""; 0]);
        assert_eq!(device.pinged(1), None);
    }
}

#[test]
fn new_backend_that_nothing_is_asked_of_is_the_next_after_a_while() {
    let mut device = on_trial();
    assert_eq!(device.pass(LOOK_NS), [""; 0]);
    assert_eq!(device.pinged(1), None, "there was nothing to show yet");
    // The watch pings it, too.
    assert_eq!(device.pass(2_500_000_000 - LOOK_NS - 1), [""; 0]);
    assert_eq!(device.pinged(1), Some(2));
    assert_eq!(device.pass(1), [""; 0]);
    assert_eq!(device.pinged(1), None, "between two looks");
    assert_eq!(device.pass(LOOK_NS - 1), [""; 0]);
    assert_eq!(device.pinged(1), Some(3));
    assert_eq!(device.pass(LOOK_NS), ["UpgradeDone", "answer: done"]);
}

#[test]
fn new_backend_that_is_waited_for_and_completes_nothing_is_rolled_back() {
    let mut device = on_trial();
    assert_eq!(device.waits(), [""; 0]);
    assert_eq!(device.pass(5 * SECOND_NS), [""; 0]);
    assert_eq!(device.pinged(1), Some(2), "by the watch");
    assert_eq!(device.pinged(1), None, "it is not idle");
    assert_eq!(device.pass(5 * SECOND_NS - 1), [""; 0]);
    assert_eq!(device.pinged(1), Some(3));
    assert_eq!(device.pass(1), [""; 0], "between two looks");
    assert_eq!(
        device.pass(LOOK_NS),
        ["BackendLost: it has not served for 10 s"]
    );
    assert_eq!(device.pass(LOOK_NS), [""; 0], "once");
    let why = "the new backend was killed by SIGKILL";
    let told = [
        format!("UpgradeRolledBack: {why}"),
        format!("answer: {why}"),
    ];
    assert_eq!(device.dies(1, KILLED), told);
    let told = device.pass(0);
    assert_eq!(told[1..], ["attach", "BackendStarted: pid 4"]);
    let new = device.part(2, |part| (part.upgraded, part.after_crash));
    assert_eq!(new, (false, true));
}

#[test]
fn stalled_device_is_tried_with_the_new_program_at_once() {
    let mut device = Device::stalled();
    assert_eq!(upgrade(&mut device), Ok(()));
    assert_eq!(device.told(), ["UpgradeAsked: of a stalled device"]);
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns));
    assert_eq!(device.pass(0), ["attach", "BackendStarted: pid 7"]);
    assert!(device.part(5, |part| part.upgraded));
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns + LOOK_NS));
}

#[test]
fn device_retired_during_an_upgrade_is_idle_once_both_have_ended() {
    let mut device = probing();
    device.retire();
    let why = "the guest has ended or rebooted";
    let told = [format!("UpgradeRefused: {why}"), format!("answer: {why}")];
    assert_eq!(device.told(), told);
    assert!(!device.lives(0) && !device.lives(1));
    device.exited();
    assert!(!device.slot.is_idle());
    device.pass(0);
    assert!(device.slot.is_idle());
}
