// SPDX-License-Identifier: Apache-2.0
//! What docs/cluster.md has its reader do besides, word for word.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::bmc::Controller;
use crate::cluster::guide;
use crate::cluster::inside::{Cluster, PATIENCE};
use crate::cluster::vms::{SHARED, until};

/// The one that the page has its reader reboot.
const FENCED: &str = "host2";
/// The simulated controllers know no other cipher suite.
const CIPHER: (&str, &str) = ("lanplus=1", "lanplus=1 cipher=3");
/// What the page's commands have added, which later scenarios are without.
const CONSTRAINTS: &str = "web-on-host1 apart db-first";

/// The page's fence devices turn a host off and on; then they go, since an agent of the case's own tells
/// when it has returned.
pub(super) fn fence_devices(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.hosts.iter();
    let controllers: Result<Vec<_>> = hosts
        .map(|host| Controller::start(&cluster.case, host))
        .collect();
    let controllers = controllers?;
    let text = guide::block("fence")?;
    ensure!(
        text.contains(CIPHER.0),
        "docs/cluster.md has no {}",
        CIPHER.0
    );
    fs::write(cluster.case.join("crm"), text.replace(CIPHER.0, CIPHER.1))?;
    let admin = cluster.hosts.first().context("no host")?;
    admin.run("crm configure load update /run/case/crm")?;
    until(PATIENCE, "three fence devices", || {
        let known = admin.output("stonith_admin --list-registered")?;
        let known = String::from_utf8_lossy(&known.stdout).into_owned();
        Ok((1..=3).all(|number| known.contains(&format!("fence-host{number}"))))
    })?;
    let fenced = cluster.hosts.iter().find(|host| host.name == FENCED);
    let fenced = fenced.context("no such host")?;
    admin.run(&format!("stonith_admin --reboot {FENCED}"))?;
    ensure!(fenced.init().is_none(), "{FENCED} is still on");
    ensure!(
        cluster
            .case
            .join(format!("fence/{FENCED}.switched-on"))
            .exists(),
        "{FENCED} was not turned on again"
    );
    cluster.timeline.say(format_args!(
        "the fence devices of docs/cluster.md: fence_ipmilan has turned {FENCED} off and on"
    ));
    cluster.boot_all()?;
    cluster.settle()?;
    let names: Vec<_> = cluster
        .hosts
        .iter()
        .map(|host| format!("fence-{}", host.name))
        .collect();
    let names = names.join(" ");
    cluster
        .admin()?
        .run(&format!("crm --force configure delete {names}"))?;
    drop(controllers);
    Ok(())
}

/// The commands below "Placement", and those in the text.
pub(super) fn commands(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin()?;
    for line in guide::block("placement")?.lines() {
        admin.run(line)?;
        cluster.settle()?;
    }
    let constraints = admin.run("crm configure show type:location type:colocation type:order")?;
    for name in CONSTRAINTS.split(' ') {
        ensure!(
            constraints.contains(name),
            "there is no {name}:\n{constraints}"
        );
    }
    admin.run(&format!("crm configure delete {CONSTRAINTS}"))?;
    cluster.settle()?;
    stays_off(cluster)?;
    left_alone(cluster)?;
    cluster
        .timeline
        .say("the commands of docs/cluster.md do what it says");
    Ok(())
}

/// A VM that is to stay off does.
fn stays_off(cluster: &Cluster) -> Result<()> {
    let vm = SHARED[0];
    let admin = cluster.admin()?;
    let role = |role: &str| {
        admin.run(&format!(
            "crm_resource -r {vm} --meta -p target-role -v {role}"
        ))
    };
    role("Stopped")?;
    cluster.settle()?;
    ensure!(cluster.place_of(vm).is_none(), "{vm} still runs");
    let boots = cluster.count(vm)?.boots;
    role("Started")?;
    cluster.await_guest(vm, boots + 1)?;
    cluster.settle()
}

/// In maintenance the cluster lets a VM be, whatever is done with it by hand.
fn left_alone(cluster: &Cluster) -> Result<()> {
    let vm = SHARED[0];
    let admin = cluster.admin()?;
    admin.run("crm configure property maintenance-mode=true")?;
    cluster.settle()?;
    let place = cluster.place_of(vm).context("it does not run")?;
    let boots = cluster.count(vm)?.boots;
    let host = &cluster.hosts[place];
    host.run(&format!("bulkhead pause {vm}"))?;
    // Longer than the cluster takes to look.
    sleep(Duration::from_secs(3));
    let state = host.run(&format!("bulkhead inspect {vm} --json | jq -r .state"))?;
    ensure!(state.trim() == "paused", "{vm} is {state}");
    host.run(&format!("bulkhead resume {vm}"))?;
    admin.run("crm configure property maintenance-mode=false")?;
    cluster.settle()?;
    ensure!(cluster.count(vm)?.boots == boots, "{vm} was booted anew");
    Ok(())
}
