// SPDX-License-Identifier: Apache-2.0
//! Hosts die or are cut off: their VMs run elsewhere, and never twice.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cluster::inside::{Cluster, PATIENCE};
use crate::cluster::vms::{DEAF, SHARED, until};
use crate::cluster::{power, watch};

/// The VM runs on another host, and what its guest had written is there.
pub(super) fn host_loses_power(cluster: &mut Cluster) -> Result<()> {
    let vm = SHARED[0];
    let place = cluster.place_of(vm).context("it does not run")?;
    let before = cluster.count(vm)?;
    let begun = Instant::now();
    cluster.hosts[place].lose_power();
    cluster
        .timeline
        .say(format_args!("{} loses power", cluster.hosts[place].name));
    let elsewhere = cluster.await_guest(vm, before.boots + 1)?;
    let took = begun.elapsed().as_secs_f64();
    let after = cluster.count(vm)?;
    ensure!(
        after.boots == before.boots + 1 && after.writes >= before.writes,
        "its disk had {before:?} and has {after:?}"
    );
    cluster.timeline.say(format_args!(
        "{vm} runs on {} {took:.1} s after the power loss, with all that it had written",
        cluster.hosts[elsewhere].name
    ));
    cluster.boot_all()?;
    cluster.settle()
}

/// A host without a network is fenced before its VM is started elsewhere.
pub(super) fn network_is_cut(cluster: &mut Cluster) -> Result<()> {
    let (cut, seen) = cut(cluster)?;
    let known_off = power::returned(&cluster.case.join("fence"), &cut)?;
    let took_over = watch::judge(&seen, Some(known_off))?;
    cluster.timeline.say(format_args!(
        "{DEAF} runs elsewhere, started {:.2} s after the fence agent had returned; never two hosts at once",
        took_over - known_off
    ));
    cluster.boot_all()?;
    cluster.settle()
}

/// The same without fencing must be found out.
pub(super) fn without_fencing(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin()?;
    admin.run("crm_attribute --name stonith-enabled --update false")?;
    let (cut, seen) = cut(cluster)?;
    match watch::judge(
        &seen,
        power::returned(&cluster.case.join("fence"), &cut).ok(),
    ) {
        Ok(_) => bail!("no fencing, and yet {DEAF} did not run twice"),
        Err(error) => cluster.timeline.say(format_args!(
            "with fencing disabled the watch finds it out: {error}"
        )),
    }
    Ok(())
}

/// Pulls the cable of the host that the deaf VM runs on, and watches its images until another host has
/// started it. Each host has an image of its own, so that only fencing keeps the VM from running twice.
fn cut(cluster: &Cluster) -> Result<(String, Vec<watch::Change>)> {
    let place = cluster.place_of(DEAF).context("it does not run")?;
    let host = &cluster.hosts[place];
    let images = cluster.hosts.iter();
    let images = images.map(|host| (host.name.clone(), host.local().join("app.img")));
    let watch = watch::begin(images.collect());
    host.lose_network()?;
    cluster
        .timeline
        .say(format_args!("{} loses its network", host.name));
    let others = || cluster.hosts.iter().filter(|other| other.name != host.name);
    let started = until(PATIENCE, "it runs elsewhere", || {
        Ok(others().any(|other| other.has(DEAF)))
    });
    // Its image is in use a moment later.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let seen = watch.end()?;
    started?;
    Ok((host.name.clone(), seen))
}
