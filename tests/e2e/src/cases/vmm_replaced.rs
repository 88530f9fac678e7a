// SPDX-License-Identifier: Apache-2.0
//! Vmms that are replaced while their guests write to disks and verify what they read: by another process
//! of the same program, and by programs that do not take the guest up. A guest of a few hundred bytes
//! polls two disks (`no_os_kernel/verifier.rs`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};

use super::Case;
use crate::context::Context;
use crate::driven::Driven;
use crate::inspect::{events, quietly, vmm_pauses_us};
use crate::no_os_kernel::NoOsKernel;
use crate::vm::PATIENCE;

const SOAK: Duration = Duration::from_secs(30 * 60);
/// What only x86_64 has.
pub(super) const SAVED: &str = "the interrupt controllers of other architectures are not saved yet";

pub(super) fn cases() -> Vec<Case> {
    let native =
        |name: &str, case: fn(&Context) -> Result<()>| Case::native(name, case).only_on_x86(SAVED);
    vec![
        native("vmm_replaced_under_load_loses_nothing", |context| {
            replaced(context, 20)
        }),
        Case::native("vmm_replaced_500_times_loses_nothing", |context| {
            replaced(context, 500)
        })
        .only_on_x86(SAVED)
        .soak(SOAK),
        native("vmm_upgraded_is_the_next_program_from_then_on", upgraded),
        native(
            "vmm_that_does_not_take_the_guest_up_is_rolled_back",
            rolled_back,
        ),
        native(
            "vmm_killed_before_it_has_taken_the_guest_up_is_rolled_back",
            killed,
        ),
        native("vmm_of_a_paused_guest_is_not_replaced", paused),
        native(
            "vmm_of_254_processors_is_replaced_and_the_console_loses_nothing",
            many_processors,
        ),
    ]
}

fn replaced(context: &Context, times: u32) -> Result<()> {
    let driven = Driven::start(context, "replaced")?;
    let mut pauses_us = driven.replace(times)?;
    pauses_us.sort_unstable();
    let at = |percent: usize| pauses_us.get(pauses_us.len() * percent / 100).copied();
    let (p50, p99) = (at(50).context("no pause")?, at(99).context("no pause")?);
    println!("SEEN vmm_replaced times={times} pause_p50_us={p50} pause_p99_us={p99}");
    driven.finish()
}

fn upgraded(context: &Context) -> Result<()> {
    let driven = Driven::start(context, "upgraded")?;
    let new = driven.harness.dir().join("vmm-new");
    std::fs::copy(context.program("vmm"), &new)?;
    let binary = new.display().to_string();
    driven
        .harness
        .bulkhead_ok("upgrade", &["vmm", "--binary", &binary])?;
    // Gone from the disk, it still is the program of the next vmm.
    std::fs::remove_file(&new)?;
    driven.harness.bulkhead_ok("restart", &["vmm", "--wait"])?;
    let program = std::fs::read_link(format!("/proc/{}/exe", driven.vmm()?))?;
    ensure!(
        program.display().to_string().contains("vmm-new"),
        "{program:?}"
    );
    driven.finish()
}

/// Programs that end, that are none, and that do nothing.
fn rolled_back(context: &Context) -> Result<()> {
    let driven = Driven::start(context, "rolledback")?;
    let own = std::fs::read_link(format!("/proc/{}/exe", driven.vmm()?))?;
    let kernel = driven.harness.dir().join("kernel").display().to_string();
    let other = context.program("blk-backend").display().to_string();
    let hangs = context.program("vmm-that-hangs").display().to_string();
    for (binary, why) in [(other, "it exited"), (kernel, "it"), (hangs, "within 10 s")] {
        driven.goes_on()?;
        let before = driven.vmm()?;
        let output = driven
            .harness
            .bulkhead("upgrade", &["vmm", "--binary", &binary])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{said}");
        ensure!(output.status.code() == Some(5), "{}: {said}", output.status);
        ensure!(
            said.contains("the old program goes on") && said.contains(why),
            "{said}"
        );
        ensure!(driven.vmm()? != before, "it is the same process");
        let program = std::fs::read_link(format!("/proc/{}/exe", driven.vmm()?))?;
        ensure!(program == own, "{program:?}");
        driven.goes_on()?;
    }
    ensure!(
        driven.harness.count("upgrade-rolled-back")? == 3,
        "{:?}",
        driven.harness.events()?
    );
    driven.finish()
}

/// The next vmm, which never takes the guest up, is killed at ten moments: the old program goes on.
fn killed(context: &Context) -> Result<()> {
    let driven = Driven::start(context, "killed")?;
    let mut rolled = 0;
    for round in 0..10_u64 {
        driven.goes_on()?;
        let before = driven.vmm()?;
        let killer = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                driven.harness.bulkhead(
                    "upgrade",
                    &[
                        "vmm",
                        "--binary",
                        &context.program("vmm-that-hangs").display().to_string(),
                    ],
                )
            });
            std::thread::sleep(Duration::from_millis(30 + 7 * round));
            let begun = Instant::now();
            let next = loop {
                let pid = driven.vmm()?;
                if pid != before {
                    break pid;
                }
                ensure!(begun.elapsed() < PATIENCE, "no other vmm follows");
            };
            kill(next, Signal::SIGKILL)?;
            match asked.join() {
                Ok(output) => output,
                Err(_) => bail!("a thread panicked"),
            }
        })?;
        let said = String::from_utf8_lossy(&killer.stderr).into_owned();
        ensure!(said.contains("the old program goes on"), "{said}");
        rolled += 1;
    }
    println!("SEEN vmm_killed_before_it_has_taken_up rolled_back={rolled}");
    driven.finish()
}

fn paused(context: &Context) -> Result<()> {
    let driven = Driven::start(context, "paused")?;
    driven.harness.bulkhead_ok("pause", &[])?;
    let before = driven.vmm()?;
    let output = driven.harness.bulkhead("restart", &["vmm", "--wait"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(5) && said.contains("paused"),
        "{said}"
    );
    ensure!(driven.vmm()? == before, "it was replaced");
    driven.harness.bulkhead_ok("resume", &[])?;
    driven.finish()
}

/// All processors but one wait to be started. What is typed while the vmm is replaced reaches the guest,
/// which sends every byte back once.
fn many_processors(context: &Context) -> Result<()> {
    const ROUNDS: usize = 20;
    let kernel = NoOsKernel::new().say("ready\n").echo_until_q().power_off();
    let builder = context.vm("many").boots_no_os(&kernel).cpus(254);
    let mut vm = builder.start()?;
    vm.wait_for("ready\n", PATIENCE)?;
    let name = vm.name().to_owned();
    for round in 0..ROUNDS {
        let text = format!(
            "line {round} is longer than the 64 bytes that a serial port's FIFO holds, if that\n"
        );
        std::thread::scope(|scope| {
            let replaced = scope.spawn(|| quietly(context, &["restart", &name, "vmm", "--wait"]));
            vm.type_text(&text)?;
            match replaced.join() {
                Ok(outcome) => outcome.map(drop),
                Err(_) => bail!("a thread panicked"),
            }
        })?;
        vm.wait_for(&text, PATIENCE)?;
    }
    let pauses = vmm_pauses_us(&events(context, "many")?);
    ensure!(pauses.len() == ROUNDS, "{pauses:?}");
    println!("SEEN vmm_of_254_processors pauses_us={pauses:?}");
    vm.type_text("q")?;
    vm.expect_exit(0)
}
