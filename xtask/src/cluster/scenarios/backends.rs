// SPDX-License-Identifier: Apache-2.0
//! Processes of a VM die: of its jailer the cluster hears, of its backends it does not.

use anyhow::{Context as _, Result, ensure};

use super::AGENT;
use crate::cluster::host::Host;
use crate::cluster::inside::{Cluster, PATIENCE};
use crate::cluster::vms::{SHARED, until};

/// OCF_DEGRADED: the resource is active, and something is wrong with it.
const DEGRADED: i32 = 190;
/// The VM of this module.
const VM: &str = SHARED[1];

/// The VM has ended, the monitor says why, and it is started anew where it was: no host has more left, each
/// has one VM.
pub(super) fn jailer_killed(cluster: &Cluster) -> Result<()> {
    let place = cluster.place_of(VM).context("it does not run")?;
    let host = &cluster.hosts[place];
    let before = cluster.count(VM)?;
    let jailer = pid(host, "jailer")?;
    host.run(&format!("kill -9 {jailer}"))?;
    let again = cluster.await_guest(VM, before.boots + 1)?;
    cluster.settle()?;
    let status = cluster.status(host);
    ensure!(
        status.contains("has ended: jailer-lost"),
        "the status has no reason:\n{status}"
    );
    ensure!(again == place, "it was moved:\n{status}");
    host.run(&format!("crm_resource --cleanup --resource {VM}"))?;
    cluster.settle()?;
    cluster.timeline.say(format_args!(
        "{VM}: its jailer was killed, the monitor said so, and it was started anew on {}",
        host.name
    ));
    Ok(())
}

/// A backend is killed, upgraded and hangs: the guest writes on, and nothing changes in the cluster.
pub(super) fn not_noticed(cluster: &Cluster) -> Result<()> {
    let place = cluster.place_of(VM).context("it does not run")?;
    let host = &cluster.hosts[place];
    let known = state(host)?;
    let boots = cluster.count(VM)?.boots;
    for (what, line) in [
        ("killed", "kill -9 PID"),
        ("upgraded", "bulkhead upgrade db --all"),
        ("hung", "kill -STOP PID"),
    ] {
        let backend = pid(host, "blk disk0")?;
        host.run(&line.replace("PID", &backend))?;
        until(PATIENCE, "another backend", || {
            Ok(pid(host, "blk disk0").is_ok_and(|now| now != backend))
        })?;
        let writes = cluster.count(VM)?.writes;
        until(PATIENCE, "the guest writes on", || {
            Ok(cluster.count(VM)?.writes > writes + 1)
        })?;
        cluster.timeline.say(format_args!(
            "{VM}: its backend was {what}, and the guest writes on"
        ));
    }
    wait_for_a_monitor();
    let now = state(host)?;
    ensure!(known == now, "the cluster noticed: {known} became {now}");
    ensure!(
        cluster.count(VM)?.boots == boots,
        "the guest was booted anew"
    );
    cluster
        .timeline
        .say(format_args!("{VM}: the cluster has noticed nothing of it"));
    Ok(())
}

/// A device whose backend has died too often: the VM is degraded, and the cluster lets it run.
pub(super) fn stalled(cluster: &Cluster) -> Result<()> {
    let place = cluster.place_of(VM).context("it does not run")?;
    let host = &cluster.hosts[place];
    let boots = cluster.count(VM)?.boots;
    let inspect = format!("bulkhead inspect {VM} --json | jq -r '.devices[0].state'");
    until(PATIENCE, "it stalls", || {
        if let Ok(backend) = pid(host, "blk disk0") {
            // It may have ended since.
            host.output(&format!("kill -9 {backend}"))?;
        }
        Ok(host.run(&inspect)?.trim() == "stalled")
    })?;
    let monitor = format!(
        "OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE={VM} OCF_RESKEY_config=/srv/vms/{VM}.json \
         OCF_RESKEY_CRM_meta_interval=2000 {AGENT} monitor"
    );
    let told = host.output(&monitor)?;
    let reason = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(
        told.status.code() == Some(DEGRADED) && reason.contains("no backend serves disk0"),
        "{}: {reason}",
        told.status
    );
    wait_for_a_monitor();
    host.run(&format!("bulkhead restart {VM} disk0 --wait"))?;
    let writes = cluster.count(VM)?.writes;
    until(PATIENCE, "the guest writes on", || {
        Ok(cluster.count(VM)?.writes > writes + 1)
    })?;
    ensure!(
        cluster.count(VM)?.boots == boots && cluster.place_of(VM) == Some(place),
        "it was started anew:\n{}",
        cluster.status(host)
    );
    cluster.timeline.say(format_args!(
        "{VM}: its disk stalled, the monitor said degraded, and the guest went on after bulkhead restart"
    ));
    Ok(())
}

/// Waits until the cluster's monitor has looked once more, every two seconds.
fn wait_for_a_monitor() {
    std::thread::sleep(std::time::Duration::from_secs(3));
}

/// The process id that a process of the VM has on its host.
fn pid(host: &Host, role: &str) -> Result<String> {
    let filter = format!(r#".processes[] | select(.role == "{role}") | .pid"#);
    let told = host.run(&format!("bulkhead inspect {VM} --json | jq -e '{filter}'"))?;
    Ok(told.trim().to_owned())
}

/// The version of all that the cluster knows: it changes with every result of an operation that differs
/// from the last.
fn state(host: &Host) -> Result<String> {
    let cib = host.run("cibadmin --query")?;
    let first = cib.lines().next().context("an empty CIB")?;
    let of = |name: &str| {
        let (_, rest) = first.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0)
    };
    let (epoch, updates) = (of("epoch"), of("num_updates"));
    Ok(format!(
        "{}.{}",
        epoch.context(first.to_owned())?,
        updates.unwrap_or("?")
    ))
}
