// SPDX-License-Identifier: Apache-2.0
//! How long a device pauses when its backend is killed, replaced by another program, or hangs. A disk:
//! as a driver with 32 requests outstanding sees it. A NIC: as a host sees it whose frames
//! come back. Everything is real but the guest. And how long a guest of 512 MiB with two disks in use and a NIC
//! stands still while its vmm is replaced: by the supervisor's account, from its order to save until its
//! order to go on.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::context::Context;
use crate::driven::Driven;
use crate::exchange::wires::{MAC, TAP};
use crate::harness::gaps::pause_ns;
use crate::harness::{Device, Harness};
use crate::network::enter_empty;

/// How often a backend is killed.
const KILLS: usize = 200;
/// How often its program is replaced.
const UPGRADES: u32 = 50;
/// How often it is stopped.
const HANGS: usize = 3;
/// How long the device is served before it happens again.
const BETWEEN: Duration = Duration::from_millis(40);

/// Kills, upgrades and stops backends under load; the pauses.
pub(super) fn run(context: &Context) -> Result<String> {
    let disk = Device::Disk("");
    let (kills, drains) = killed(context, disk)?;
    let upgrades = upgraded(context, disk)?;
    let hangs = hangs(context)?;
    let (net_kills, _) = killed(context, Device::Nic)?;
    let net_upgrades = upgraded(context, Device::Nic)?;
    let vmm_upgrades = vmm_replaced(context)?;
    println!(
        "{} kills, {} upgrades, {} hangs; of a NIC {} kills, {} upgrades; of the vmm {} upgrades",
        kills.len(),
        upgrades.len(),
        hangs.len(),
        net_kills.len(),
        net_upgrades.len(),
        vmm_upgrades.len(),
    );
    Ok(format!(
        "blk_kill_p50_ms={:.1} blk_kill_p99_ms={:.1} blk_drain_p99_ms={:.1} \
         blk_upgrade_p50_ms={:.1} blk_upgrade_p99_ms={:.1} hang_resume_s={:.2} \
         net_kill_p50_ms={:.1} net_kill_p99_ms={:.1} \
         net_upgrade_p50_ms={:.1} net_upgrade_p99_ms={:.1} \
         vmm_upgrade_p50_ms={:.1} vmm_upgrade_p99_ms={:.1}",
        at(&kills, 50),
        at(&kills, 99),
        at(&drains, 99),
        at(&upgrades, 50),
        at(&upgrades, 99),
        at(&hangs, 100) / 1e3,
        at(&net_kills, 50),
        at(&net_kills, 99),
        at(&net_upgrades, 50),
        at(&net_upgrades, 99),
        at(&vmm_upgrades, 50),
        at(&vmm_upgrades, 99),
    ))
}

/// The value below which so many of a hundred are.
fn at(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn ms(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e3
}

/// The pauses of a device that began at these times.
fn pauses(harness: Harness, times: &[u64]) -> Result<Vec<f64>> {
    const AROUND_NS: u64 = 20_000_000;
    let gaps = harness.finish()?.gaps;
    let pauses = times
        .iter()
        .filter_map(|then_ns| pause_ns(&gaps, *then_ns, AROUND_NS));
    let pauses: Vec<f64> = pauses.map(ms).collect();
    // A pause too short to be noted would be a good one, and is rare.
    ensure!(
        pauses.len() * 10 >= times.len() * 9,
        "{} pauses of {}",
        pauses.len(),
        times.len()
    );
    Ok(pauses)
}

/// Pauses after kills, and what of them was the wait for the I/O of the dead.
fn killed(context: &Context, device: Device) -> Result<(Vec<f64>, Vec<f64>)> {
    let harness = Harness::start(context, &format!("kills-{}", device.id()), 60, device)?;
    let (mut times, mut drains) = (Vec::new(), Vec::new());
    let end = std::time::Instant::now() + Duration::from_secs(55);
    while times.len() < KILLS && std::time::Instant::now() < end {
        std::thread::sleep(BETWEEN);
        let (dead, then_ns) = harness.signal(Signal::SIGKILL)?;
        times.push(then_ns);
        harness.backend_after(dead)?;
        let events = harness.events()?;
        let fenced = events.iter().rev().find(|event| event["kind"] == "fenced");
        drains.extend(fenced.and_then(took_ms));
        // So that the next death is the first one again.
        std::thread::sleep(BETWEEN);
        harness.bulkhead_ok("restart", &[device.id(), "--wait"])?;
    }
    ensure!(times.len() >= 20, "{} kills", times.len());
    Ok((pauses(harness, &times)?, drains))
}

/// How long the fence took, of the event that tells it.
fn took_ms(event: &Value) -> Option<f64> {
    let us: f64 = event["detail"].as_str()?.split(' ').next()?.parse().ok()?;
    Some(us / 1e3)
}

fn upgraded(context: &Context, device: Device) -> Result<Vec<f64>> {
    let harness = Harness::start(context, &format!("upgrades-{}", device.id()), 25, device)?;
    let binary = harness.dir().join(device.program());
    let binary = binary.display().to_string();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let mut asked = 0;
    while asked < UPGRADES && std::time::Instant::now() < end {
        std::thread::sleep(BETWEEN);
        harness.bulkhead_ok("upgrade", &[device.id(), "--binary", &binary])?;
        asked += 1;
    }
    let events = harness.events()?;
    // The pause begins when the vmm is told to drain, which is when it has found the new one fit; the
    // death of the old one, a moment later, is in the journal.
    let died = events.iter().filter(|event| event["kind"] == "fenced");
    let times: Vec<u64> = died.filter_map(|event| event["time_ns"].as_u64()).collect();
    let gaps = harness.finish()?.gaps;
    let pauses = times.iter().filter_map(|then_ns| {
        // All of the gap, not only what follows.
        let around = gaps
            .iter()
            .filter(|(from, to)| from < then_ns && then_ns < to);
        around.map(|(from, to)| to - from).max()
    });
    let pauses: Vec<f64> = pauses.map(ms).collect();
    ensure!(
        pauses.len() >= 10,
        "{} pauses of {asked} upgrades",
        pauses.len()
    );
    Ok(pauses)
}

fn vmm_replaced(context: &Context) -> Result<Vec<f64>> {
    enter_empty()?;
    let nic = format!("tap={TAP},mac={MAC}");
    let driven = Driven::start_with(context, "vmms", "512M", &["--net", &nic])?;
    let pauses_us = driven.replace(UPGRADES)?;
    driven.finish()?;
    let pauses = pauses_us.into_iter().map(|us| ms(us * 1000));
    Ok(pauses.collect())
}

fn hangs(context: &Context) -> Result<Vec<f64>> {
    let harness = Harness::start(context, "hangs", 20, Device::Disk(""))?;
    let mut times = Vec::new();
    for _ in 0..HANGS {
        std::thread::sleep(Duration::from_millis(700));
        let (hung, then_ns) = harness.signal(Signal::SIGSTOP)?;
        times.push(then_ns);
        harness.backend_after(hung)?;
    }
    pauses(harness, &times)
}
