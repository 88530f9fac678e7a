// SPDX-License-Identifier: Apache-2.0
//! What cannot work is refused with the right code and one line that says why.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};

use super::AGENT;
use crate::cluster::host::Host;
use crate::cluster::inside::Cluster;
use crate::cluster::vms::{self, SHARED};

/// The agent's parameters, its action, and what follows: an OCF code and a piece of the reason.
type Refusal = (&'static str, &'static str, i32, &'static str);

const REFUSALS: &[Refusal] = &[
    ("", "start", 6, "the parameter config is missing"),
    (
        "OCF_RESKEY_config=vms/web.json",
        "start",
        6,
        "is not an absolute path",
    ),
    (
        "OCF_RESKEY_config=/srv/vms/none.json",
        "start",
        5,
        "there is no such document on this host",
    ),
    ("OCF_RESKEY_config=/srv/vms/none.json", "monitor", 7, ""),
    ("OCF_RESKEY_config=/srv/vms/none.json", "stop", 0, ""),
    (
        "OCF_RESKEY_config=/srv/vms/wrong.json",
        "start",
        6,
        "unknown field",
    ),
    (
        "OCF_RESKEY_config=/srv/vms/lost.json",
        "start",
        5,
        "No such file",
    ),
    // The image of a VM that runs on some host: the lock is the shared storage's.
    (
        "OCF_RESKEY_config=/srv/vms/locked.json",
        "start",
        1,
        "locked by another program",
    ),
    (
        "OCF_RESKEY_config=/srv/vms/big.json OCF_RESKEY_binary=/nowhere/bulkhead",
        "start",
        5,
        "is not installed",
    ),
    (
        "OCF_RESKEY_config=/srv/vms/big.json OCF_RESKEY_binary=/run/case/old",
        "start",
        5,
        "bulkhead 0.1.0 is too old",
    ),
    (
        "OCF_RESKEY_config=/srv/vms/big.json OCF_RESKEY_shutdown_timeout=soon",
        "validate-all",
        6,
        "is no number of seconds",
    ),
    // A guest that has more time than its stop.
    (
        "OCF_RESOURCE_INSTANCE=web OCF_RESKEY_crm_feature_set=3.1.0 OCF_RESKEY_config=/srv/vms/web.json OCF_RESKEY_shutdown_timeout=60",
        "validate-all",
        6,
        "the stop operation has 10 s only: give it timeout=65s or more",
    ),
    ("OCF_RESKEY_config=/srv/vms/big.json", "promote", 3, ""),
];

pub(super) fn refused(cluster: &Cluster) -> Result<()> {
    let case = &cluster.case;
    fs::write(
        case.join("srv/vms/wrong.json"),
        r#"{"kernel": "/srv/vms/keeper", "memory": "1G"}"#,
    )?;
    vms::document(case, "lost", "none", "/srv/images/big.img", 40)?;
    vms::document(case, "locked", "keeper", "/srv/images/web.img", 40)?;
    fs::write(case.join("old"), "#!/bin/sh\necho bulkhead 0.1.0\n")?;
    fs::set_permissions(case.join("old"), fs::Permissions::from_mode(0o755))?;
    let place = cluster.place_of(SHARED[0]).context("it does not run")?;
    for host in [
        &cluster.hosts[place],
        &cluster.hosts[(place + 1) % cluster.hosts.len()],
    ] {
        for refusal in REFUSALS {
            check(host, "", refusal)?;
        }
    }
    let twice = "OCF_RESKEY_config=/srv/vms/big.json OCF_RESKEY_name=web";
    let taken = (twice, "start", 2, "is that of the resource web");
    check(&cluster.hosts[place], "", &taken)?;
    let without = "mount --bind /dev/null /dev/kvm; ";
    let no_kvm = (
        "OCF_RESKEY_config=/srv/vms/big.json",
        "start",
        5,
        "kvm \"/dev/kvm\"",
    );
    check(&cluster.hosts[place], without, &no_kvm)?;
    cluster.timeline.say(format_args!(
        "{} wrong starts are refused with the right code and reason",
        REFUSALS.len() + 2
    ));
    Ok(())
}

/// `first` is done in a mount namespace of the agent's own.
fn check(host: &Host, first: &str, &(parameters, action, code, reason): &Refusal) -> Result<()> {
    let set =
        "export OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=other OCF_RESKEY_CRM_meta_interval=0";
    let line = format!("{first}{set} {parameters}; exec {AGENT} {action}");
    let output = host.output(&format!("exec unshare --mount sh -c '{line}'"))?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{}: {action} with {parameters}: {} instead of {code}: {told}",
        host.name,
        output.status
    );
    let mut reasons = told
        .lines()
        .filter(|line| line.starts_with("ocf-exit-reason:"));
    ensure!(
        reason.is_empty() || reasons.any(|line| line.contains(reason)),
        "{}: {action} with {parameters} does not say {reason:?}: {told}",
        host.name
    );
    Ok(())
}
