// SPDX-License-Identifier: Apache-2.0
//! The case of the cluster: three hosts made of namespaces on this machine, with corosync and pacemaker
//! as Debian has them, and guests of a few hundred bytes that the agent `ocf:bulkhead:vm` keeps alive.
//!
//! The case is a process of its own ([`inside`]), pid 1 of namespaces in which the hosts' are nested. With it
//! everything ends that it has started, however it ends itself.

mod bmc;
mod guide;
mod host;
mod inside;
mod power;
mod scenarios;
mod services;
mod timeline;
mod vms;
mod watch;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

use crate::arch::Arch;
use crate::command::{command, loud, quiet};
use crate::scratch::Scratch;
use crate::{compile, deb, packages, progress};

pub(crate) use inside::run as inside;

/// The case's name among those of the end-to-end runner.
pub(crate) const CASE: &str = "cluster_of_three_hosts_keeps_its_vms_alive";

/// An idle machine takes half of it.
const LIMIT_SECONDS: &str = "420";

/// What is written in sh.
const SCRIPTS: [&str; 5] = [
    "packaging/ocf/vm",
    "xtask/assets/cluster-host.sh",
    "xtask/assets/cluster-bmc.sh",
    "xtask/assets/cluster-fence.sh",
    "xtask/assets/cluster-scale.sh",
];

/// Whether a filter chooses the case.
pub(crate) fn is_chosen(filter: &str) -> bool {
    filter.starts_with("cluster") && CASE.starts_with(filter)
}

/// Runs the case with what is built in `dist`, and returns its timeline. It takes root and a `/dev/kvm`.
pub(crate) fn run(dist: &Path, timeline: &mut Vec<String>) -> Result<()> {
    ensure!(geteuid().is_root(), "only root makes hosts of namespaces");
    services::keep_off()?;
    packages::ensure(packages::CLUSTER)?;
    let root = compile::root()?;
    let mut shellcheck = command("shellcheck", ["--shell=sh"]);
    shellcheck.args(SCRIPTS.map(|script| root.join(script)));
    quiet(&mut shellcheck)?;
    let scratch = Scratch::new("cluster")?;
    let case = scratch.path().join("case");
    fs::create_dir_all(&case)?;
    let work = scratch.path().join("work");
    for package in deb::pack(Arch::own(), dist, &deb::changelog()?, &work)? {
        quiet(
            command("dpkg-deb", ["--extract"])
                .arg(&package)
                .arg(case.join("root")),
        )?;
    }
    let ran = progress::step("three hosts of a cluster", || {
        let mut enter = command("timeout", ["--signal=KILL", LIMIT_SECONDS, "unshare"]);
        enter.args(["--mount", "--pid", "--net", "--ipc", "--uts"]);
        enter.args(["--fork", "--kill-child", "--mount-proc", "--"]);
        enter
            .arg(std::env::current_exe()?)
            .arg("cluster-inside")
            .arg(&case);
        let status = loud(enter.stdin(Stdio::null()))?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
    let told = fs::read_to_string(case.join(timeline::FILE)).unwrap_or_default();
    let (happened, why) = told.split_once(timeline::FAILED).unwrap_or((&told, ""));
    // What comes before the reason is the time of it.
    let happened = happened.rsplit_once('\n').map_or("", |(before, _)| before);
    timeline.extend(happened.lines().map(str::to_owned));
    if ran.is_err() {
        show_logs(&case.join("log"));
    }
    ran.with_context(|| format!("the hosts: {}", why.trim_end()))
}

/// The last lines of what each host has said.
fn show_logs(dir: &Path) {
    const LINES: usize = 40;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let text = fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let worth = |line: &&str| ["error", "warning", "vm("].iter().any(|w| line.contains(w));
        let lines: Vec<_> = text.lines().filter(worth).collect();
        println!("==> {}", entry.path().display());
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            println!("{line}");
        }
    }
}
