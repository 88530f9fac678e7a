// SPDX-License-Identifier: Apache-2.0
//! VMs are stopped: by the power button, by force after the time that a guest has, or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::inside::{Cluster, PATIENCE};
use crate::cluster::power;
use crate::cluster::vms::{DEAF, SHARED, until};

/// Standby moves VMs: a guest that hears its button powers off, one that does not is ended.
pub(super) fn standby(cluster: &Cluster) -> Result<()> {
    let vm = SHARED[0];
    let place = cluster.place_of(vm).context("it does not run")?;
    let deaf = cluster.place_of(DEAF).context("it does not run")?;
    let before = cluster.count(vm)?;
    let leave: BTreeSet<_> = [place, deaf].into_iter().collect();
    let stays = (0..cluster.hosts.len()).find(|other| !leave.contains(other));
    let admin = &cluster.hosts[stays.context("no host stays")?];
    for place in &leave {
        admin.run(&format!(
            "crm_standby --node {} --update on",
            cluster.hosts[*place].name
        ))?;
    }
    cluster.await_guest(vm, before.boots + 1)?;
    until(PATIENCE, "the deaf VM moves", || Ok(admin.has(DEAF)))?;
    cluster.settle()?;
    for (vm, place, reason) in [(vm, place, "power-off"), (DEAF, deaf, "timeout")] {
        let host = &cluster.hosts[place];
        ensure!(!host.has(vm), "{vm} still runs on {}", host.name);
        let log = fs::read_to_string(
            cluster
                .case
                .join("log")
                .join(format!("{}.pacemaker", host.name)),
        );
        let told = format!("VM {vm}: stop: has ended: {reason}");
        ensure!(
            log.unwrap_or_default().contains(&told),
            "no agent has said: {told}"
        );
    }
    for place in &leave {
        admin.run(&format!(
            "crm_standby --node {} --delete",
            cluster.hosts[*place].name
        ))?;
    }
    cluster.settle()?;
    cluster.timeline.say(format_args!(
        "standby: {vm} powered off and moved, {DEAF} ignored its button, was ended and moved"
    ));
    Ok(())
}

/// A VM that cannot be stopped has its host fenced, and then runs elsewhere.
pub(super) fn impossible(cluster: &mut Cluster) -> Result<()> {
    let vm = SHARED[1];
    let place = cluster.place_of(vm).context("it does not run")?;
    let host = &cluster.hosts[place];
    let before = cluster.count(vm)?;
    let stuck = cluster.case.join("stuck");
    fs::write(
        &stuck,
        "#!/bin/sh\necho '{\"error\": \"the disk of the host is gone\"}' >&2\nexit 6\n",
    )?;
    fs::set_permissions(&stuck, fs::Permissions::from_mode(0o755))?;
    let _ = fs::remove_file(cluster.case.join(format!("fence/{}.returned", host.name)));
    host.run("mount --bind /run/case/stuck /usr/lib/bulkhead/bulkhead")?;
    host.run(&format!(
        "crm_resource --ban --resource {vm} --node {}",
        host.name
    ))?;
    let elsewhere = cluster.await_guest(vm, before.boots + 1)?;
    power::returned(&cluster.case.join("fence"), &host.name)?;
    ensure!(elsewhere != place, "it was not moved");
    let name = host.name.clone();
    cluster.timeline.say(format_args!(
        "{vm}: its stop failed, {name} was fenced, and it runs on {}",
        cluster.hosts[elsewhere].name
    ));
    cluster
        .admin()?
        .run(&format!("crm_resource --clear --resource {vm}"))?;
    cluster.boot_all()?;
    cluster.settle()
}
