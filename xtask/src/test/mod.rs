// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: style, unit tests, process tests, end-to-end tests, one closing line.

mod cases;
mod changed;
mod checks;
mod circles;
mod others;
mod paths;
mod rules;
mod table;
mod tally;
mod times;
mod unsafe_code;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use e2e::machine::Machine;
use nix::unistd::geteuid;
use rustix::process::setpriority_process;

use crate::arch::Arch;
use crate::host::{self, Place};
use crate::lab::{self, InnerHost};
use crate::{TestFlags, cluster, compile, deb, dist, signals, space, spike};
use cases::Extent;
use tally::Tally;
use times::Times;

/// The priority of what may wait.
const NICEST: i32 = 19;

/// Runs everything, or only the end-to-end cases that the filter selects.
pub(crate) fn run(flags: &TestFlags) -> Result<ExitCode> {
    let (mut tally, mut times) = (Tally::default(), Times::default());
    if let Some(commit) = &flags.changed {
        let crates = changed::crates(commit)?;
        tally += times.of("style", |_| checks::style())?;
        if crates.is_empty() {
            println!("nothing differs from {commit}");
        } else {
            tally += times.of("unit tests", |_| checks::tests_of(&crates))?;
        }
        return Ok(close(tally, &times));
    }
    if flags.filter.as_deref().is_some_and(spike::is_chosen) {
        tally += times.of("Spike", in_spike);
        return Ok(close(tally, &times));
    }
    if flags.filter.as_deref().is_some_and(deb::is_chosen) {
        tally += times.of("packages", of_packages);
        return Ok(close(tally, &times));
    }
    if flags.filter.as_deref().is_some_and(cluster::is_chosen) {
        tally += times.of("cluster", of_cluster);
        return Ok(close(tally, &times));
    }
    let place = host::choose(&flags.place)?;
    let everything = flags.filter.is_none() && place.arch().is_own();
    if everything {
        space::check()?;
        tally += times.of("style", |_| checks::style())?;
        tally += times.of("unit tests", |_| checks::unit_tests())?;
    }
    if everything {
        // Both wait for what must happen in seconds, so nothing runs beside them.
        tally += times.of("packages", of_packages);
        tally += times.of("cluster", of_cluster);
    }
    if everything && matches!(place, Place::Native) {
        tally += times.of("fuzzing", |_| checks::fuzz())?;
    }
    tally += end_to_end(place, flags, &mut times)?;
    let is_anywhere = flags.place.inner.arch.is_none() && !flags.place.native;
    if everything && is_anywhere {
        tally += others::run(flags, &mut times)?;
    }
    if flags.soak && flags.filter.is_none() {
        tally += times.of("Spike", in_spike);
    }
    if flags.filter.is_none() && !flags.soak {
        std::mem::take(&mut times.table).write()?;
    }
    Ok(close(tally, &times))
}

/// End-to-end cases of one architecture.
fn end_to_end(place: Place, flags: &TestFlags, times: &mut Times) -> Result<Tally> {
    let binaries = match times.of("building", |_| compile::all(place.arch())) {
        Ok(binaries) => binaries,
        Err(error) => {
            println!("FAILED   {error:#}");
            return Ok(Tally::failure("building"));
        }
    };
    match place {
        Place::Native => times.of("cases here", |times| {
            cases::natively(flags, &binaries, Extent::All, times)
        }),
        Place::Lab(host) if host.arch.is_own() => beside_each_other(host, flags, &binaries, times),
        Place::Lab(host) => {
            let is_named = flags.place.inner.host.is_some();
            let hosts = lab::of_arch(host.arch);
            let hosts = hosts.filter(|other| !is_named || other.runs == host.runs);
            one_after_the_other(hosts, flags, &binaries, times)
        }
    }
}

/// The case of Spike, whose hart has no AIA.
fn in_spike(times: &mut Times) -> Tally {
    case(spike::CASE, Machine::Plic, spike::run, times)
}

fn of_packages(times: &mut Times) -> Tally {
    if !geteuid().is_root() {
        println!("skipped  {}: only root installs packages", deb::CASE);
        return Tally {
            skipped: 1,
            ..Tally::default()
        };
    }
    let run = || deb::run(&dist::build(Arch::own())?);
    case(deb::CASE, Machine::own(), run, times)
}

fn of_cluster(times: &mut Times) -> Tally {
    if !geteuid().is_root() {
        println!("skipped  {}: only root makes hosts", cluster::CASE);
        return Tally {
            skipped: 1,
            ..Tally::default()
        };
    }
    let mut timeline = Vec::new();
    let run = || cluster::run(&dist::build(Arch::own())?, &mut timeline);
    let tally = case(cluster::CASE, Machine::own(), run, times);
    times.tell("cluster", timeline);
    tally
}

/// A case that is none of the runner's.
fn case(
    name: &str,
    machine: Machine,
    run: impl FnOnce() -> Result<()>,
    times: &mut Times,
) -> Tally {
    let begun = Instant::now();
    let ended = run();
    signals::wait_if_stopping();
    let seconds = begun.elapsed().as_secs_f64();
    let line = match &ended {
        Ok(()) => format!("ok       {name} ({seconds:.1} s)"),
        Err(error) => format!("FAILED   {name} ({seconds:.1} s): {error:#}"),
    };
    println!("{line}");
    times.hear(machine, &line);
    match ended {
        Ok(()) => Tally::success(),
        Err(error) => Tally::failure(tally::named(name, &format!("{error:#}"))),
    }
}

/// Says the closing lines; the exit status.
fn close(tally: Tally, times: &Times) -> ExitCode {
    let Tally {
        passed,
        failed,
        skipped,
        not_applicable,
        failures,
    } = tally;
    for line in times.lines() {
        println!("{line}");
    }
    for name in failures {
        println!("failed   {name}");
    }
    println!("{not_applicable} not applicable, for reasons that are in docs/architectures.md");
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// All cases in each of these inner hosts.
fn one_after_the_other(
    hosts: impl Iterator<Item = &'static InnerHost>,
    flags: &TestFlags,
    binaries: &[PathBuf],
    times: &mut Times,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for host in hosts {
        tally += times.of(host.name, |times| {
            cases::in_the_lab(host, flags, binaries, Extent::All, times)
        })?;
    }
    Ok(tally)
}

/// Cases that need no lab and then the fuzz targets, and the lab beside them, which takes longest: most
/// of either is waiting.
fn beside_each_other(
    host: &'static InnerHost,
    flags: &TestFlags,
    binaries: &[PathBuf],
    times: &mut Times,
) -> Result<Tally> {
    let (native, lab) = thread::scope(|scope| {
        let native = scope.spawn(|| {
            let mut times = Times::default();
            let mut tally = times.of("cases here", |times| {
                cases::natively(flags, binaries, Extent::Native, times)
            });
            if flags.filter.is_none() {
                // The inner host, which is in a hurry, keeps its processors. Only this thread and
                // what it starts are nice.
                let _ = setpriority_process(None, NICEST);
                let fuzzed = times.of("fuzzing", |_| checks::fuzz());
                tally = tally.and_then(|mut cases| {
                    cases += fuzzed?;
                    Ok(cases)
                });
            }
            (tally, times)
        });
        let lab = times.of("cases in the lab", |times| {
            cases::in_the_lab(host, flags, binaries, Extent::Guest, times)
        });
        (native.join(), lab)
    });
    let (native, of_native) = native.map_err(|_| anyhow!("the thread of native cases panicked"))?;
    times.add(of_native);
    let (native, mut tally) = (native?, lab?);
    tally += native;
    Ok(tally)
}
