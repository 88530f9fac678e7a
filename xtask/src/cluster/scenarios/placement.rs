// SPDX-License-Identifier: Apache-2.0
//! VMs are placed by what they take, which the agent has told the cluster before it placed them.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};

use crate::cluster::guide;
use crate::cluster::inside::{Cluster, PATIENCE};
use crate::cluster::vms::{BIG, DEAF, SHARED, until};

/// What the page's configuration has otherwise here: hosts of a size that three small VMs fill, and
/// operations that a test can wait for.
const DIFFERENCES: [(&str, &str); 3] = [
    ("host_memory=60000", "host_memory=130"),
    ("op stop timeout=180s", "op stop timeout=10s"),
    ("op monitor interval=10s", "op monitor interval=2s"),
];
/// The fence agent of the case, in place of the page's, and a VM that fits nowhere.
const MORE: &str = r#"
primitive fence stonith:fence_case params pcmk_host_list="host1 host2 host3" op monitor interval=60s
primitive big ocf:bulkhead:vm params config=/srv/vms/big.json op stop timeout=10s
"#;

/// Three VMs spread over the hosts, and the fourth stays stopped.
pub(super) fn spread(cluster: &Cluster) -> Result<()> {
    let mut text = guide::block("crm")?.to_owned();
    for (of_the_page, here) in DIFFERENCES {
        ensure!(
            text.contains(of_the_page),
            "docs/cluster.md has no {of_the_page}"
        );
        text = text.replace(of_the_page, here);
    }
    fs::write(cluster.case.join("crm"), text + MORE)?;
    let admin = cluster.admin()?;
    admin.run("crm --force configure load update /run/case/crm")?;
    cluster
        .timeline
        .say("the configuration of docs/cluster.md is loaded");
    let vms = [SHARED[0], SHARED[1], DEAF];
    until(PATIENCE, "three VMs run", || {
        Ok(vms.iter().all(|vm| cluster.place_of(vm).is_some()))
    })?;
    cluster.settle()?;
    let places: BTreeSet<_> = vms.iter().filter_map(|vm| cluster.place_of(vm)).collect();
    ensure!(
        places.len() == vms.len(),
        "they are not spread:\n{}",
        cluster.status(admin)
    );
    ensure!(
        cluster.place_of(BIG).is_none(),
        "{BIG} runs, and fits nowhere"
    );
    for (attribute, wanted) in [("cpu", "1"), ("host_memory", "150")] {
        let set = admin.run(&format!("crm_resource -r {BIG} -z -g {attribute}"))?;
        ensure!(set.trim() == wanted, "{BIG} takes {attribute}={set}");
    }
    for vm in SHARED {
        cluster.await_guest(vm, 1)?;
    }
    cluster.timeline.say(format_args!(
        "three VMs are spread over three hosts; {BIG}, which fits nowhere, stays stopped"
    ));
    Ok(())
}
