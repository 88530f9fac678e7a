// SPDX-License-Identifier: Apache-2.0
//! Lives of guests without an operating system: how each way to end shows in the exit status.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use crate::context::Context;
use crate::machine::Machine;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Vm};

/// Where KVM does not refuse what is misaligned.
const NOT_RISCV64: &[Machine] = &[Machine::X86, Machine::Gicv3, Machine::Gicv2];
/// What their processors do instead.
const NO_TRIPLE_FAULT: &str = "other processors have no triple fault: without a table of vectors they take exceptions without end";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = ended_by_itself();
    cases.extend(ended_by_kvm());
    cases.extend(ended_from_outside());
    cases
}

fn ended_by_itself() -> Vec<Case> {
    vec![
        Case::native("no_os_guest_that_powers_off_exits_0", |context| {
            ends(context, &NoOsKernel::new().say("hello\n").power_off(), 0)
        }),
        Case::native(
            "no_os_guest_that_triple_faults_is_reset_and_ends_as_a_storm_with_3",
            |context| storm(context, &NoOsKernel::new().say("hello\n").triple_fault()),
        )
        .only_on_x86(NO_TRIPLE_FAULT),
        Case::native(
            "no_os_guest_that_triple_faults_exits_3_with_on_reboot_exit",
            |context| {
                let kernel = NoOsKernel::new().say("hello\n").triple_fault();
                resets(context, &kernel, 3)
            },
        )
        .only_on_x86(NO_TRIPLE_FAULT),
        Case::native("no_os_guest_that_reports_a_panic_exits_3", |context| {
            ends(context, &NoOsKernel::new().say("hello\n").panic(), 3)
        }),
        Case::native(
            "no_os_guest_that_resets_for_ever_ends_as_a_reboot_storm_with_3",
            |context| storm(context, &NoOsKernel::new().say("hello\n").reset()),
        ),
        Case::native(
            "no_os_guest_that_resets_exits_0_with_on_reboot_exit",
            |context| resets(context, &NoOsKernel::new().say("hello\n").reset(), 0),
        ),
        Case::native(
            "no_os_guest_that_resets_by_keyboard_exits_0_with_on_reboot_exit",
            |context| {
                let kernel = NoOsKernel::new().say("hello\n").keyboard_reset();
                resets(context, &kernel, 0)
            },
        )
        .only_on_x86("machines with a device tree have no keyboard controller"),
        Case::native("no_os_guest_with_four_cpus_exits_0", |context| {
            let kernel = NoOsKernel::new().say("hello\n").power_off();
            context
                .vm("no-os")
                .boots_no_os(&kernel)
                .cpus(4)
                .start()?
                .expect_exit(0)
        }),
    ]
}

fn ended_by_kvm() -> Vec<Case> {
    vec![
        Case::native(
            "no_os_guest_that_accesses_a_device_by_an_instruction_kvm_does_not_know_crashes_with_3",
            |context| crashes(context, NoOsKernel::new().say("hello\n").unknown_access()),
        )
        .not_on(
            &[Machine::X86],
            "KVM emulates every instruction that accesses registers there",
        ),
        Case::native(
            "no_os_guest_that_accesses_a_device_misaligned_crashes_with_3",
            |context| {
                crashes(
                    context,
                    NoOsKernel::new().say("hello\n").misaligned_access(),
                )
            },
        )
        .not_on(
            NOT_RISCV64,
            "a misaligned access is either emulated or an exception in the guest there",
        ),
        Case::native(
            "no_os_guest_that_jumps_to_a_device_crashes_with_3",
            |context| crashes(context, NoOsKernel::new().say("hello\n").jump_to_a_device()),
        )
        .not_on(
            &[Machine::Gicv3, Machine::Gicv2],
            "the jump is an exception in the guest there",
        ),
    ]
}

fn ended_from_outside() -> Vec<Case> {
    vec![
        Case::native("no_os_guest_typed_into_answers", typed),
        Case::native(
            "no_os_guest_deaf_to_its_button_ends_at_the_second_sigterm",
            |context| deaf(context, &NoOsKernel::new().say("hello\n").spin()),
        ),
        Case::native("no_os_guest_halted_ends_at_the_second_sigterm", |context| {
            deaf(context, &NoOsKernel::new().say("hello\n").halt())
        }),
        Case::native(
            "no_os_guest_deaf_to_its_button_ends_at_its_stop_timeout",
            late,
        ),
        Case::native(
            "no_os_guest_deaf_to_its_button_ends_when_stop_has_waited",
            waited_for,
        ),
        Case::native("no_os_guest_under_nohup_survives_a_hangup", under_nohup),
        Case::native(
            "no_os_guest_whose_jailer_is_killed_leaves_nothing_running",
            jailer_killed,
        ),
    ]
}

fn ends(context: &Context, kernel: &NoOsKernel, status: i32) -> Result<()> {
    let mut vm = context.vm("no-os").boots_no_os(kernel).start()?;

    vm.expect_exit(status)?;

    let said = vm.console().text();
    ensure!(said == "hello\n", "the console said {said:?}");
    Ok(())
}

fn resets(context: &Context, kernel: &NoOsKernel, status: i32) -> Result<()> {
    let mut vm = context
        .vm("no-os")
        .boots_no_os(kernel)
        .arg("--on-reboot", "exit")
        .start()?;

    vm.expect_exit(status)?;

    let said = vm.console().text();
    ensure!(said == "hello\n", "the console said {said:?}");
    Ok(())
}

/// The guest brings about an error of KVM_RUN: its own fault, and the end of the VM.
fn crashes(context: &Context, kernel: NoOsKernel) -> Result<()> {
    let mut vm = context.vm("no-os").boots_no_os(&kernel.spin()).start()?;

    vm.expect_exit(3)?;

    let said = vm.log().text();
    println!("SEEN {}", said.trim_end());
    ensure!(said.contains("the guest crashed"), "it was said: {said:?}");
    Ok(())
}

fn storm(context: &Context, kernel: &NoOsKernel) -> Result<()> {
    let mut vm = context.vm("no-os").boots_no_os(kernel).start()?;

    vm.expect_exit(3)?;

    let boots = vm.console().text().matches("hello").count();
    ensure!(boots == 5, "there were {boots} boots");
    Ok(())
}

fn typed(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("ready\n").echo_until_q().power_off();
    let mut vm = context.vm("no-os").boots_no_os(&kernel).start()?;
    vm.wait_for("ready\n", PATIENCE)?;
    let text = "The 64-byte FIFO of a UART is shorter than this. ".repeat(5);

    vm.type_text(&text)?;

    vm.wait_for(&text, PATIENCE)?;
    vm.type_text("q")?;
    vm.expect_exit(0)
}

fn deaf(context: &Context, kernel: &NoOsKernel) -> Result<()> {
    let mut vm = context.vm("no-os").boots_no_os(kernel).start()?;
    vm.wait_for("hello\n", PATIENCE)?;

    vm.signal(Signal::SIGTERM)?;
    let after_the_first = vm.wait_exit(Duration::from_millis(700));
    vm.signal(Signal::SIGTERM)?;
    let status = vm.wait_exit(Duration::from_secs(5))?;

    ensure!(after_the_first.is_err(), "the first SIGTERM ended it");
    ensure!(status == 128 + 15, "the second one's status is {status}");
    Ok(())
}

fn late(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let builder = context.vm("no-os").boots_no_os(&kernel);
    let mut vm = builder.arg("--stop-timeout", 1).start()?;
    vm.wait_for("hello\n", PATIENCE)?;

    vm.signal(Signal::SIGTERM)?;

    vm.expect_exit(0)?;
    let said = vm.log().text();
    ensure!(
        said.contains("did not power off within 1 s"),
        "it said {said:?}"
    );
    Ok(())
}

fn waited_for(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vm = context.vm("no-os").boots_no_os(&kernel).start()?;
    vm.wait_for("hello\n", PATIENCE)?;

    context.run_ok(&["stop", vm.name(), "--stop-timeout", "1"])?;

    let state = context.state_dir("no-os");
    ensure!(
        !state.exists(),
        "stop returned while {} is there",
        state.display()
    );
    vm.expect_exit(0)
}

/// As nohup(1) starts it.
fn under_nohup(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut command = Command::new("nohup");
    let run = context.vm("no-os").boots_no_os(&kernel).command()?;
    command.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut vm = Vm::spawn(context.name_of("no-os"), &mut command)?;
    vm.wait_for("hello\n", PATIENCE)?;

    vm.signal(Signal::SIGHUP)?;
    let after_the_hangup = vm.wait_exit(Duration::from_millis(700));
    context.run_ok(&["stop", vm.name(), "--force"])?;

    vm.expect_exit(0)?;
    ensure!(after_the_hangup.is_err(), "SIGHUP ended it");
    Ok(())
}

fn jailer_killed(context: &Context) -> Result<()> {
    let mut vm = context
        .vm("no-os")
        .boots_no_os(&NoOsKernel::new().say("hello\n").spin())
        .start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    let descendants = crate::procs::living_descendants();
    let jailer = descendants.iter().find(|process| process.name == "jailer");
    let jailer = jailer.ok_or_else(|| anyhow::anyhow!("no jailer in {descendants:?}"))?;

    nix::sys::signal::kill(jailer.pid, Signal::SIGKILL)?;

    let status = vm.wait_exit(Duration::from_secs(5))?;
    ensure!(status != 0, "bulkhead run took it for success");
    // The next command removes what only the jailer could.
    context.run_ok(&["ps"])?;
    let state = context.state_dir("no-os");
    ensure!(!state.exists(), "{} is still there", state.display());
    Ok(())
}
