// SPDX-License-Identifier: Apache-2.0
//! Replacements of the vmm during which a process is killed or stands still: the next vmm in the middle of
//! taking the guest up, the old program when it is to take it up again, the vmm that saves, the
//! supervisor and the jailer.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Case;
use super::kills::{cgroups, moment, youngest};
use super::vmm_replaced::SAVED;
use crate::context::Context;
use crate::driven::Driven;
use crate::inspect::process;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::PATIENCE;

/// How often the next vmm is stopped somewhere on its way, and how far it may come until then.
const STOPS: u32 = 12;
const WAY_US: u32 = 20_000;
/// So many that it takes a while.
const CPUS: &str = "128";
/// How long a supervisor that was told something takes at most to show it.
const SHOWN: Duration = Duration::from_millis(50);
/// How often the old program may take the guest up before it is stopped.
const ATTEMPTS: u32 = 8;
/// How long a guest that must not run is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How often the supervisor and the jailer are killed, and so soon after the vmm is to be replaced.
const KILLS: u32 = 10;
const REPLACED_US: u32 = 30_000;

pub(super) fn cases() -> Vec<Case> {
    let native =
        |name: &str, case: fn(&Context) -> Result<()>| Case::native(name, case).only_on_x86(SAVED);
    vec![
        native(
            "vmm_killed_while_it_takes_the_guest_up_is_rolled_back",
            killed_on_its_way,
        ),
        native(
            "vmm_that_hangs_when_it_is_rolled_back_ends_the_vm_with_a_reason",
            roll_back_hangs,
        ),
        native(
            "vmm_that_saves_too_late_leaves_a_paused_guest_paused",
            saves_too_late,
        ),
        native(
            "supervisor_and_jailer_killed_while_the_vmm_is_replaced_leave_nothing",
            others_killed,
        ),
    ]
}

/// Runs `during` while a client waits for what `bulkhead` says to these words.
fn beside<T>(
    driven: &Driven,
    (verb, words): (&str, &[&str]),
    during: impl FnOnce() -> Result<T>,
) -> Result<(Output, T)> {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| driven.harness.bulkhead(verb, words));
        let done = during();
        match asked.join() {
            Ok(output) => Ok((output?, done?)),
            Err(_) => bail!("a thread panicked"),
        }
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The vmm that follows this one.
fn next_after(before: Pid) -> Result<Pid> {
    let begun = Instant::now();
    loop {
        if let Some(pid) = youngest("vmm").filter(|pid| *pid != before) {
            return Ok(pid);
        }
        ensure!(begun.elapsed() < PATIENCE, "no other vmm follows");
    }
}

/// Whether the guest waits for a vmm to take it up.
fn is_waiting(driven: &Driven) -> Result<bool> {
    std::thread::sleep(SHOWN);
    Ok(driven.harness.info()?["state"] == "starting")
}

/// The next vmm is the same program. It is stopped anywhere on its way, and killed if it has not taken the
/// guest up by then: if it had, its end would be the VM's.
fn killed_on_its_way(context: &Context) -> Result<()> {
    let driven = Driven::start_with(context, "onitsway", "64M", &["--cpus", CPUS])?;
    let mut killed = 0;
    for _ in 0..STOPS {
        driven.goes_on()?;
        let before = driven.vmm()?;
        let (output, hit) = beside(&driven, ("restart", &["vmm", "--wait"]), || {
            let next = next_after(before)?;
            std::thread::sleep(moment(WAY_US));
            kill(next, Signal::SIGSTOP)?;
            let hit = is_waiting(&driven)?;
            kill(
                next,
                if hit {
                    Signal::SIGKILL
                } else {
                    Signal::SIGCONT
                },
            )?;
            Ok(hit)
        })?;
        let said = said(&output);
        let is_rolled_back = said.contains("the old program goes on: it was killed by SIGKILL");
        ensure!(output.status.success() != hit, "{hit}: {said}");
        ensure!(is_rolled_back == hit, "{hit}: {said}");
        killed += u32::from(hit);
    }
    println!("SEEN vmm_killed_while_it_takes_the_guest_up killed={killed} of={STOPS}");
    ensure!(killed > 0, "each had taken the guest up");
    driven.finish()
}

/// The next program is no vmm, and ends. The old one is stopped before it takes the guest up again.
fn roll_back_hangs(context: &Context) -> Result<()> {
    let mut driven = Driven::start(context, "rollback")?;
    let other = context.program("blk-backend").display().to_string();
    for _ in 0..ATTEMPTS {
        driven.goes_on()?;
        let before = driven.vmm()?;
        let words: &[&str] = &["vmm", "--binary", &other];
        let (output, hit) = beside(&driven, ("upgrade", words), || {
            let old = next_after(before)?;
            kill(old, Signal::SIGSTOP)?;
            let hit = is_waiting(&driven)?;
            if !hit {
                kill(old, Signal::SIGCONT)?;
            }
            Ok(hit)
        })?;
        ensure!(!output.status.success(), "it was upgraded");
        if !hit {
            continue;
        }
        let status = driven.harness.wait(PATIENCE)?;
        let words = driven.harness.last_words();
        println!("{status}: {words}");
        ensure!(status.code() == Some(1), "{status}: {words}");
        for part in [
            "it exited",
            "the old program has not taken the guest up again within 10 s",
        ] {
            ensure!(words.contains(part), "{words}");
        }
        return Ok(());
    }
    bail!("the old program took the guest up each time")
}

/// A vmm that stands still saves only after its time. Its guest was paused meanwhile: it stays so.
fn saves_too_late(context: &Context) -> Result<()> {
    let driven = Driven::start(context, "late")?;
    let refused = |why: &str| -> Result<()> {
        let output = driven.harness.bulkhead("restart", &["vmm", "--wait"])?;
        let said = said(&output);
        ensure!(
            output.status.code() == Some(5) && said.contains(why),
            "{said}"
        );
        Ok(())
    };
    driven.goes_on()?;
    let vmm = driven.vmm()?;
    kill(vmm, Signal::SIGSTOP)?;
    refused("it does not answer")?;
    // What it says at last belongs to the first time.
    refused("has not answered yet")?;
    let (output, ()) = beside(&driven, ("pause", &[]), || {
        std::thread::sleep(SHOWN);
        Ok(kill(vmm, Signal::SIGCONT)?)
    })?;
    ensure!(output.status.success(), "{}", said(&output));
    std::thread::sleep(LOOK);
    let before = driven.harness.completed()?;
    std::thread::sleep(LOOK);
    ensure!(driven.harness.completed()? == before, "the guest runs");
    ensure!(driven.harness.info()?["state"] == "paused", "it says so");
    refused("paused")?;
    driven.harness.bulkhead_ok("resume", &[])?;
    driven.replace(1)?;
    driven.finish()
}

fn others_killed(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut during = 0;
    for (round, victim) in (0..KILLS).zip(["supervisor", "jailer"].into_iter().cycle()) {
        let name = format!("others{round}");
        let image = context.sparse_file(&format!("{round}.img"), 1 << 20)?;
        let builder = context.vm(&name).boots_no_os(&kernel);
        let disk = format!("path={}", image.display());
        let mut vm = builder.arg("--disk", disk).start()?;
        vm.wait_for("hello\n", PATIENCE)?;
        let full = vm.name().to_owned();
        let before = process(context, &full, "vmm")?;
        std::thread::scope(|scope| {
            let restart = ["restart", &full, "vmm", "--wait"];
            let asked = scope.spawn(move || context.run(&restart));
            let moment = moment(REPLACED_US);
            std::thread::sleep(moment);
            let was = youngest("vmm");
            let Some(pid) = youngest(victim) else {
                bail!("there is no {victim}")
            };
            kill(pid, Signal::SIGKILL)?;
            println!("round {round}: {victim} after {moment:?}, {before} was followed by {was:?}");
            let Ok(output) = asked.join() else {
                bail!("a thread panicked")
            };
            during += u32::from(!output?.status.success());
            Ok(())
        })?;
        // One that was killed itself has no status.
        let ended = vm.wait_exit(PATIENCE);
        ensure!(ended.is_ok(), "{ended:?}");
        let living = procs::wait_for_none(Duration::from_secs(5));
        ensure!(living.is_empty(), "it lives on: {living:?}");
        let state = context.state_dir(&name);
        let begun = Instant::now();
        while state.exists() || !cgroups(&full).is_empty() {
            ensure!(victim == "jailer", "{} is left", state.display());
            ensure!(begun.elapsed() < PATIENCE, "{} is left", state.display());
            context.run(&["ps"])?;
        }
    }
    println!("SEEN others_killed_while_the_vmm_is_replaced kills={KILLS} before_its_end={during}");
    ensure!(during > 0, "the vmm had been replaced each time");
    Ok(())
}
