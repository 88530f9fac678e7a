// SPDX-License-Identifier: Apache-2.0
//! What is done to the cluster, in this order; each leaves three hosts online and three VMs running.

mod backends;
mod bad_input;
mod failover;
mod page;
mod placement;
mod stops;

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::inside::Cluster;
use super::vms;

/// The agent, as the package installs it.
const AGENT: &str = "/usr/lib/ocf/resource.d/bulkhead/vm";

const SCALE: &str = include_str!("../../../assets/cluster-scale.sh");

pub(super) fn run(cluster: &mut Cluster) -> Result<()> {
    tester(cluster).context("ocf-tester")?;
    page::fence_devices(cluster).context("the page's fence devices")?;
    placement::spread(cluster).context("placement")?;
    backends::jailer_killed(cluster).context("a jailer that is killed")?;
    page::commands(cluster).context("the page's commands")?;
    bad_input::refused(cluster).context("bad input")?;
    failover::host_loses_power(cluster).context("a host that loses power")?;
    failover::network_is_cut(cluster).context("split brain")?;
    backends::not_noticed(cluster).context("backends")?;
    backends::stalled(cluster).context("a stalled device")?;
    stops::standby(cluster).context("standby")?;
    stops::impossible(cluster).context("a stop that fails")?;
    doctor(cluster).context("bulkhead doctor")?;
    scale(cluster).context("scale")?;
    failover::without_fencing(cluster).context("split brain without fencing")
}

/// The conformance test of resource-agents.
fn tester(cluster: &Cluster) -> Result<()> {
    vms::document(&cluster.case, "tested", "keeper", "/srv/images/big.img", 40)?;
    let host = cluster.admin()?;
    let told = host.run(&format!(
        "ocf-tester -n tested -o config=/srv/vms/tested.json {AGENT}"
    ))?;
    ensure!(told.contains("passed all tests"), "{told}");
    cluster
        .timeline
        .say("ocf-tester: the agent passed all tests");
    Ok(())
}

/// What the scheduler makes of a larger cluster, of which a host dies: only its VMs move, and all fit.
fn scale(cluster: &Cluster) -> Result<()> {
    fs::write(cluster.case.join("scale.sh"), SCALE)?;
    let told = cluster.admin()?.run("sh /run/case/scale.sh 16 320 1")?;
    let wanted = "fenced 1, moved 20 VMs away from 1 hosts, stopped 0";
    ensure!(told.trim() == wanted, "{told}");
    cluster.timeline.say(format_args!(
        "16 hosts with 320 VMs, simulated, one dies: {wanted}"
    ));
    Ok(())
}

fn doctor(cluster: &Cluster) -> Result<()> {
    for host in &cluster.hosts {
        host.run("bulkhead doctor")?;
    }
    cluster
        .timeline
        .say("bulkhead doctor: three hosts can run VMs");
    Ok(())
}
