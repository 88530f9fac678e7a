// SPDX-License-Identifier: Apache-2.0
//! What the demo stands on: a network of its own, the guest's disks, and what the host looked like.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::context::Context;
use crate::traffic;
use crate::vm::{DEBIAN, Stock, Vm, VmBuilder};

/// The host's end of the guest's NIC, and its address.
const TAP: &str = "demo0";
pub(super) const HOST: &str = "10.213.0.1";
const GUEST: &str = "10.213.0.2/30";

/// A VM that is ready to start, and the image of its disk.
pub(super) fn prepare(context: &Context) -> Result<(VmBuilder<'_>, PathBuf)> {
    // Nobody else's network is touched, and nobody else's touches this.
    unshare(CloneFlags::CLONE_NEWNET)
        .context("a network of the demo's own (it must run as root)")?;
    run(&["ip", "link", "set", "lo", "up"])?;
    let image = context.debian_root("root.img")?;
    let tool = traffic::tool(context)?;
    let up = context.script("up", &format!("ip address add {HOST}/30 dev \"$1\""))?;
    let disks = [
        format!("path={},id=root,queues=2", image.display()),
        format!("path={},id=tool,readonly", tool.display()),
    ];
    let nic = format!("tap={TAP},id=nic,up={}", up.display());
    println!("$ bulkhead run --cpus 2 --mem 512M --disk {}", disks[0]);
    println!("      --disk {} --net {nic} …", disks[1]);
    let builder = context.vm("demo").boots(Stock::DEFAULT, DEBIAN);
    let builder = builder.cpus(2).mem_mib(512).arg("--net", nic);
    let [root, tool] = disks;
    Ok((builder.arg("--disk", root).arg("--disk", tool), image))
}

/// Gives the guest its address and its tool.
pub(super) fn set_up_network(vm: &mut Vm) -> Result<()> {
    vm.sh(&format!(
        "ip link set eth0 up && ip address add {GUEST} dev eth0"
    ))?;
    traffic::install_tool(vm)
}

/// A file system that was unmounted in good order needs no repair.
pub(super) fn check_image(image: &Path) -> Result<()> {
    run(&["e2fsck", "-fn", &image.display().to_string()])
}

fn run(command: &[&str]) -> Result<()> {
    let (program, args) = command.split_first().context("no command")?;
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| (*program).to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", command.join(" "));
    Ok(())
}

/// What a VM could leave on the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traces {
    mounts: Vec<String>,
    cgroups: Vec<PathBuf>,
    state: Vec<PathBuf>,
    links: Vec<String>,
}

impl Traces {
    /// What there is now.
    pub(super) fn now(context: &Context) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut links: Vec<String> = fs::read_to_string("/proc/self/net/dev")?
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .filter(|name| name == TAP)
            .collect();
        links.sort();
        Ok(Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            cgroups: directories(Path::new("/sys/fs/cgroup"), 3),
            state: directories(&context.state_dir("demo"), 1),
            links,
        })
    }

    /// Says what is there now and was not before.
    pub(super) fn compare(&self, now: &Self) -> Result<()> {
        ensure!(self == now, "left behind: before {self:?}, now {now:?}");
        Ok(())
    }
}

/// The directory and those in it, `depth` levels deep, that have to do with us.
fn directories(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if dir.to_string_lossy().contains("bulkhead") {
        found.extend(dir.exists().then(|| dir.to_owned()));
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in dirs.take(if depth == 0 { 0 } else { usize::MAX }) {
        found.extend(directories(&entry.path(), depth - 1));
    }
    found.sort();
    found
}
