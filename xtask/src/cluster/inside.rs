// SPDX-License-Identifier: Apache-2.0
//! The case's own process: the hosts, and what is done to them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::host::{BRIDGE, Host};
use super::power::{self, Power};
use super::timeline::{self, Timeline};
use super::vms::{self, until};
use super::{guide, scenarios};
use crate::command::{command, quiet};

/// How many hosts there are.
const HOSTS: usize = 3;
/// How long the cluster may take for anything, on a machine that is busy with something else.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

const HOST_SCRIPT: &str = include_str!("../../assets/cluster-host.sh");
const FENCE_AGENT: &str = include_str!("../../assets/cluster-fence.sh");
/// What a cluster begins with here: it elects its first coordinator at once, not after 20 s.
const FIRST_CIB: &str = r#"<cib crm_feature_set="3.1.0" validate-with="pacemaker-3.1" admin_epoch="0" epoch="1" num_updates="0">
  <configuration>
    <crm_config>
      <cluster_property_set id="cib-bootstrap-options">
        <nvpair id="cib-bootstrap-options-dc-deadtime" name="dc-deadtime" value="2s"/>
      </cluster_property_set>
    </crm_config>
    <nodes/><resources/><constraints/>
  </configuration>
  <status/>
</cib>
"#;

/// The hosts, and what they share.
#[derive(Debug)]
pub(super) struct Cluster {
    /// What all hosts see below /run/case, and its `srv` as /srv.
    pub(super) case: PathBuf,
    pub(super) hosts: Vec<Host>,
    pub(super) timeline: Arc<Timeline>,
}

/// Runs the case, as pid 1 of namespaces of its own.
pub(crate) fn run(case: &Path) -> Result<ExitCode> {
    let timeline = Arc::new(Timeline::begin(case)?);
    let ran = Cluster::make(case, &timeline).and_then(|mut cluster| {
        cluster.boot_all()?;
        scenarios::run(&mut cluster)
    });
    if let Err(error) = ran {
        timeline.say(format_args!("{}{error:#}", timeline::FAILED));
        return Ok(ExitCode::FAILURE);
    }
    timeline.say("all is as it should be");
    Ok(ExitCode::SUCCESS)
}

impl Cluster {
    /// Writes everything, and makes the network; no host is on.
    fn make(case: &Path, timeline: &Arc<Timeline>) -> Result<Self> {
        let power = Arc::new(Power::default());
        let hosts: Vec<_> = (1..=HOSTS)
            .map(|number| Host::new(number, case, Arc::clone(&power)))
            .collect();
        let names: Vec<_> = hosts.iter().map(|host| host.name.clone()).collect();
        for dir in ["log", "fence", "corosync", "root/usr/sbin", "root/etc"] {
            fs::create_dir_all(case.join(dir))?;
        }
        vms::make(case, &names)?;
        File::create(case.join("uids"))?;
        fs::write(case.join("host.sh"), HOST_SCRIPT)?;
        fs::write(case.join("first-cib.xml"), FIRST_CIB)?;
        guide::write("corosync.conf", &case.join("corosync/corosync.conf"))?;
        let agent = case.join("root/usr/sbin/fence_case");
        fs::write(&agent, FENCE_AGENT)?;
        fs::set_permissions(&agent, Permissions::from_mode(0o755))?;
        let password = case.join("root/etc/fence-password");
        guide::write("fence-password", &password)?;
        fs::set_permissions(&password, Permissions::from_mode(0o700))?;
        quiet(&mut command(
            "ip",
            ["link", "add", BRIDGE, "type", "bridge"],
        ))?;
        quiet(&mut command("ip", ["link", "set", BRIDGE, "up"]))?;
        power::serve(case.join("fence"), power, Arc::clone(timeline));
        let timeline = Arc::clone(timeline);
        Ok(Self {
            case: case.to_owned(),
            hosts,
            timeline,
        })
    }

    /// Boots the hosts that are off, and waits until all three are of the cluster.
    pub(super) fn boot_all(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            if host.init().is_none() {
                host.boot()?;
            }
        }
        until(PATIENCE, "three hosts online", || {
            let all = |host: &Host| self.says(host, "Online: [ host1 host2 host3 ]");
            Ok(self.hosts.iter().all(all))
        })?;
        self.timeline.say("three hosts are online");
        Ok(())
    }

    /// Whether crm_mon on a host says this.
    pub(super) fn says(&self, host: &Host, text: &str) -> bool {
        self.status(host).contains(text)
    }

    /// What crm_mon says on a host; nothing as long as it cannot ask.
    pub(super) fn status(&self, host: &Host) -> String {
        let told = host.output("crm_mon --one-shot --inactive --failcounts");
        told.map_or_else(
            |_| String::new(),
            |told| String::from_utf8_lossy(&told.stdout).into_owned(),
        )
    }

    /// A host that is on, where administrators give their commands.
    pub(super) fn admin(&self) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.init().is_some())
            .context("no host is on")
    }

    /// The place of the host that a VM runs on.
    pub(super) fn place_of(&self, vm: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.has(vm))
    }

    /// An image that all hosts reach.
    pub(super) fn shared_image(&self, vm: &str) -> PathBuf {
        self.case.join("srv/images").join(format!("{vm}.img"))
    }

    /// What a guest with a disk that all hosts reach has written.
    pub(super) fn count(&self, vm: &str) -> Result<vms::Count> {
        vms::count(&self.shared_image(vm))
    }

    /// Waits until the cluster has nothing more to do.
    pub(super) fn settle(&self) -> Result<()> {
        self.admin()?
            .run("crm_resource --wait --timeout=60")
            .map(drop)
    }

    /// Waits until a VM runs somewhere, and the guest has written on its shared disk; where.
    pub(super) fn await_guest(&self, vm: &str, boots: u32) -> Result<usize> {
        until(PATIENCE, &format!("boot {boots} of {vm}"), || {
            Ok(self.count(vm)?.boots >= boots && self.place_of(vm).is_some())
        })?;
        self.place_of(vm).context("it ended again")
    }
}
