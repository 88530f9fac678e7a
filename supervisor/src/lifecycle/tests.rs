// SPDX-License-Identifier: Apache-2.0
//! What a VM comes to, event by event.

use super::*;

const EXITED: Death = Death::Exited(0);
const RESET: Next = Next::Respawn(Reset::Guest);
const TERM: i32 = libc::SIGTERM;

fn started() -> Lifecycle {
    let mut vm = Lifecycle::new(OnReboot::Restart, None, 0);
    assert_eq!(vm.heard(FromVmm::Started, 0), Action::Nothing);
    vm
}

fn ended(mut vm: Lifecycle, ending: Ending) -> Next {
    assert_eq!(vm.heard(FromVmm::Ended(ending), 0), Action::Nothing);
    vm.died(EXITED, 0)
}

#[test]
fn guest_that_ends_decides_how_the_vm_ends() {
    for (ending, outcome_of_vm) in [
        (Ending::PowerOff, VmOutcome::Finished),
        (Ending::Panic, VmOutcome::Panicked),
        (Ending::Crash, VmOutcome::Crashed),
    ] {
        assert_eq!(ended(started(), ending), Next::End(outcome_of_vm));
    }
}

#[test]
fn guest_that_reboots_is_respawned_or_ends_as_the_spec_says() {
    assert_eq!(ended(started(), Ending::Reboot), RESET);
    let exits = Lifecycle::new(OnReboot::Exit, None, 0);
    assert_eq!(ended(exits, Ending::Reboot), Next::End(VmOutcome::Rebooted));
    let mut asked = started();
    asked.press_power_button(None, 0);
    assert_eq!(ended(asked, Ending::Reboot), Next::End(VmOutcome::Finished));
}

#[test]
fn triple_fault_resets_like_a_reboot_and_is_a_crash_where_none_follows() {
    let faulted = Next::Respawn(Reset::TripleFault);
    assert_eq!(ended(started(), Ending::TripleFault), faulted);
    let crashed = Next::End(VmOutcome::TripleFault);
    let exits = Lifecycle::new(OnReboot::Exit, None, 0);
    assert_eq!(ended(exits, Ending::TripleFault), crashed);
    let mut asked = started();
    asked.press_power_button(None, 0);
    assert_eq!(ended(asked, Ending::TripleFault), crashed);
    let mut vm = started();
    for _ in 0..4 {
        vm.heard(FromVmm::Ended(Ending::TripleFault), 0);
        assert_eq!(vm.died(EXITED, 0), faulted);
    }
    let storm = VmOutcome::RebootLoop {
        runs: 5,
        faulted: true,
    };
    assert_eq!(ended(vm, Ending::TripleFault), Next::End(storm));
}

#[test]
fn guest_that_does_not_power_off_in_time_is_ended() {
    let timeout = Duration::from_secs(90);
    for by_signal in [true, false] {
        let mut vm = Lifecycle::new(OnReboot::Restart, Some(timeout), 0);
        vm.heard(FromVmm::Started, 0);
        assert_eq!(vm.deadline_ns(), None);
        match by_signal {
            true => vm.asked_by_signal(TERM, SECOND_NS),
            false => vm.press_power_button(None, SECOND_NS),
        };
        assert_eq!(vm.deadline_ns(), Some(91 * SECOND_NS));
        assert_eq!(vm.tick(91 * SECOND_NS - 1), Action::Nothing);
        assert_eq!(vm.tick(91 * SECOND_NS), Action::Kill);
        let outcome_of_vm = VmOutcome::Stopped(Force::Timeout(90));
        assert_eq!(vm.died(EXITED, 0), Next::End(outcome_of_vm));
    }
}

#[test]
fn guest_that_has_powered_off_is_not_told_as_late_while_its_vmm_exits() {
    let timeout = Duration::from_secs(90);
    for by_signal in [true, false] {
        let mut vm = Lifecycle::new(OnReboot::Restart, Some(timeout), 0);
        vm.heard(FromVmm::Started, 0);
        vm.asked_by_signal(TERM, 0);
        vm.heard(FromVmm::Ended(Ending::PowerOff), 89 * SECOND_NS);
        let action = match by_signal {
            true => vm.asked_by_signal(TERM, 89 * SECOND_NS),
            false => vm.tick(90 * SECOND_NS),
        };
        assert_eq!(action, Action::Kill);
        assert_eq!(vm.died(EXITED, 0), Next::End(VmOutcome::Finished));
    }
}

#[test]
fn earlier_end_of_two_holds_and_a_guest_in_time_has_powered_off() {
    let (long, short) = (Duration::from_secs(60), Duration::from_secs(5));
    let mut vm = Lifecycle::new(OnReboot::Restart, Some(long), 0);
    vm.heard(FromVmm::Started, 0);
    for (timeout, at_s) in [(None, 60), (Some(short), 6), (None, 6), (Some(long), 6)] {
        vm.press_power_button(timeout, SECOND_NS * u64::from(timeout.is_some()));
        assert_eq!(vm.deadline_ns(), Some(at_s * SECOND_NS));
    }
    assert_eq!(ended(vm, Ending::PowerOff), Next::End(VmOutcome::Finished));
}

#[test]
fn fifth_short_run_in_a_row_is_a_storm_and_a_long_one_breaks_the_row() {
    let mut vm = started();
    let mut reboot = |now| {
        vm.heard(FromVmm::Ended(Ending::Reboot), now);
        vm.died(EXITED, now)
    };
    let long = 100 * SECOND_NS;
    for now in [1, 2, 3, 4, long, long + 1, long + 2, long + 3, long + 4] {
        assert_eq!(reboot(now), RESET, "{now}");
    }
    assert_eq!(
        reboot(long + 5),
        Next::End(VmOutcome::RebootLoop {
            runs: 5,
            faulted: false
        })
    );
}

#[test]
fn first_signal_presses_the_button_and_the_second_ends() {
    let mut vm = started();
    assert_eq!(
        vm.asked_by_signal(TERM, 0),
        Action::Tell(ToVmm::PowerButton)
    );
    assert_eq!(vm.state(), VmState::Stopping);
    assert_eq!(vm.asked_by_signal(TERM, 0), Action::Kill);
    let killed = Death::Signalled(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(
        vm.died(killed, 0),
        Next::End(VmOutcome::Stopped(Force::Signal(TERM)))
    );
}

#[test]
fn signal_to_a_paused_guest_wakes_it_to_power_off_and_the_second_ends() {
    let mut vm = started();
    vm.heard(FromVmm::Paused, 0);
    assert_eq!(vm.asked_by_signal(TERM, 0), Action::WakeAndPress);
    assert_eq!(vm.state(), VmState::Stopping);
    assert_eq!(vm.asked_by_signal(TERM, 0), Action::Kill);
}

#[test]
fn button_pressed_again_by_the_api_does_not_end_the_vm() {
    let mut vm = started();
    for _ in 0..2 {
        assert_eq!(
            vm.press_power_button(None, 0),
            Action::Tell(ToVmm::PowerButton)
        );
    }
}

#[test]
fn vmm_that_says_it_ends_and_stays_is_killed_and_believed() {
    let mut vm = started();
    vm.heard(FromVmm::Ended(Ending::PowerOff), 7);
    vm.hung_up(9);
    assert_eq!(vm.deadline_ns(), Some(7 + EXIT_DEADLINE_NS));
    assert_eq!(vm.tick(EXIT_DEADLINE_NS), Action::Nothing);
    assert_eq!(vm.tick(7 + EXIT_DEADLINE_NS), Action::Kill);
    assert_eq!(vm.deadline_ns(), None);
    assert_eq!(vm.died(Death::Exited(9), 0), Next::End(VmOutcome::Finished));
}

#[test]
fn vmm_that_dies_without_a_word_is_told_by_its_death() {
    let death = Death::Exited(4);
    assert_eq!(started().died(death, 0), Next::End(VmOutcome::Died(death)));
}

#[test]
fn words_after_the_last_ones_change_nothing() {
    let mut vm = started();
    vm.heard(FromVmm::Ended(Ending::Panic), 0);
    vm.heard(FromVmm::Ended(Ending::PowerOff), 0);
    vm.heard(FromVmm::Paused, 0);
    assert_eq!(vm.running(), VmState::Running);
    assert_eq!(vm.heard_malformed("noise".into(), 0), Action::Kill);
    assert_eq!(vm.died(EXITED, 0), Next::End(VmOutcome::Panicked));
}

#[test]
fn rubbish_kills_the_vmm_and_is_what_is_told() {
    let mut vm = started();
    assert_eq!(vm.heard_malformed("noise".into(), 0), Action::Kill);
    assert_eq!(
        vm.died(EXITED, 0),
        Next::End(VmOutcome::Malformed("noise".into()))
    );
}

#[test]
fn state_follows_what_the_vmm_says() {
    let mut vm = Lifecycle::new(OnReboot::Restart, None, 0);
    assert_eq!(vm.state(), VmState::Starting);
    for (message, state) in [
        (FromVmm::Started, VmState::Running),
        (FromVmm::Paused, VmState::Paused),
        (FromVmm::Resumed, VmState::Running),
    ] {
        vm.heard(message, 0);
        assert_eq!(vm.state(), state);
    }
}

#[test]
fn guest_asked_to_reboot_starts_anew_when_it_has_powered_off() {
    for on_reboot in [OnReboot::Restart, OnReboot::Exit] {
        for ending in [Ending::PowerOff, Ending::Reboot] {
            let mut vm = Lifecycle::new(on_reboot, None, 0);
            vm.heard(FromVmm::Started, 0);
            let action = vm.ask_for_reboot(None, 0);
            assert_eq!(action, Action::Tell(ToVmm::PowerButton));
            assert_eq!((vm.state(), vm.is_to_end()), (VmState::Stopping, false));
            vm.heard(FromVmm::Ended(ending), 0);
            assert_eq!(vm.died(EXITED, 0), Next::Respawn(Reset::Asked));
            assert_eq!((vm.state(), vm.reboots()), (VmState::Starting, 1));
            vm.heard(FromVmm::Started, 0);
            assert_eq!(vm.state(), VmState::Running);
            let ended = ended(vm, Ending::PowerOff);
            assert_eq!(ended, Next::End(VmOutcome::Finished), "asked only once");
        }
    }
}

#[test]
fn reboots_that_are_asked_for_are_no_storm() {
    let mut vm = started();
    for _ in 0..2 * STORM_RUNS {
        vm.reset(Reset::Forced);
        assert_eq!(vm.died(EXITED, 0), Next::Respawn(Reset::Forced));
        vm.heard(FromVmm::Started, 0);
    }
    assert_eq!(ended(vm, Ending::Reboot), RESET);
}

#[test]
fn guest_that_does_not_power_off_to_reboot_is_reset_in_the_end() {
    let mut vm = started();
    vm.ask_for_reboot(Some(Duration::from_secs(9)), 0);
    assert_eq!(vm.tick(9 * SECOND_NS), Action::Kill);
    assert_eq!(vm.state(), VmState::Stopping);
    let died = vm.died(EXITED, 0);
    assert_eq!(died, Next::Respawn(Reset::Timeout(9)));
    assert_eq!(vm.deadline_ns(), None);
}

#[test]
fn stop_goes_before_a_reboot_whichever_came_first() {
    // A button that was pressed for a reboot counts for the stop.
    let mut vm = started();
    vm.ask_for_reboot(Some(Duration::from_secs(9)), 0);
    vm.press_power_button(None, 0);
    assert_eq!((vm.is_to_end(), vm.deadline_ns()), (true, None));
    assert_eq!(ended(vm, Ending::PowerOff), Next::End(VmOutcome::Finished));
    // A signal after a reboot is the first that asks for the end.
    let mut vm = started();
    vm.ask_for_reboot(None, 0);
    let pressed = vm.asked_by_signal(TERM, 0);
    assert_eq!(pressed, Action::Tell(ToVmm::PowerButton));
    // While a vmm is being killed for a reset.
    let mut vm = started();
    vm.reset(Reset::Forced);
    vm.press_power_button(None, 0);
    assert_eq!(vm.died(EXITED, 0), Next::End(VmOutcome::Finished));
    // By force.
    for powered_off in [true, false] {
        let mut vm = started();
        vm.ask_for_reboot(None, 0);
        if powered_off {
            vm.heard(FromVmm::Ended(Ending::PowerOff), 0);
        }
        vm.end_at_once(Force::Asked);
        let outcome_of_vm = match powered_off {
            true => VmOutcome::Finished,
            false => VmOutcome::Stopped(Force::Asked),
        };
        assert_eq!(vm.died(EXITED, 0), Next::End(outcome_of_vm));
    }
}

#[test]
fn guest_that_panics_when_asked_to_reboot_has_panicked() {
    let mut vm = started();
    vm.ask_for_reboot(None, 0);
    assert_eq!(ended(vm, Ending::Panic), Next::End(VmOutcome::Panicked));
}

#[test]
fn guest_that_another_vmm_takes_up_is_no_first_guest_and_goes_on() {
    let mut vm = started();
    vm.hung_up(0);
    vm.replace();
    assert!(vm.is_deaf() && !vm.is_first_start());
    assert_eq!(vm.deadline_ns(), None);
    vm.heard(FromVmm::Waiting, 0);
    assert!(!vm.is_deaf());
    vm.replaced();
    vm.heard(FromVmm::Paused, 0);
    vm.heard(FromVmm::Resumed, 0);
    assert_eq!(vm.state(), VmState::Running);
    assert_eq!(vm.reboots(), 0);
}

#[test]
fn vmm_killed_to_end_or_reset_its_guest_has_no_successor() {
    for kill in [
        |vm: &mut Lifecycle| vm.end_at_once(Force::Asked),
        |vm: &mut Lifecycle| vm.reset(Reset::Forced),
    ] {
        let mut vm = started();
        assert!(!vm.is_killed());
        kill(&mut vm);
        assert!(vm.is_killed());
    }
}
