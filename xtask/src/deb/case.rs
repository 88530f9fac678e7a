// SPDX-License-Identifier: Apache-2.0
//! The case of the packages: they are built the same twice, lintian finds no error, and in fresh roots
//! of two Debian releases, each with its systemd as pid 1, they are installed, run a VM by their unit and
//! by their agent, are updated while it runs, and are removed without a trace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use e2e::no_os_kernel::NoOsKernel;
use nix::unistd::geteuid;

use super::{changelog, pack};
use crate::apt::Release;
use crate::arch::Arch;
use crate::bootstrap::Bootstrap;
use crate::command::{command, file_name, loud, output, quiet};
use crate::scratch::Scratch;
use crate::{cache, packages, progress};

/// The case's name among those of the end-to-end runner.
pub(crate) const CASE: &str = "packages_are_installed_updated_and_removed_under_a_vm";

/// The name of the case for an architecture that is not this machine's.
pub(crate) const CASE_OF_ANOTHER: &str = "packages_of_another_architecture_pass_lintian";

/// What is done in a root takes some seconds.
const LIMIT_SECONDS: &str = "300";
/// The releases of Debian that the package is for.
const RELEASES: [&str; 2] = ["bookworm", "trixie"];
/// What a fresh root has besides the required packages.
const PACKAGES: &[&str] = &[
    "apparmor",
    "jq",
    "pacemaker-cli-utils",
    "procps",
    "resource-agents",
    "systemd",
    "util-linux",
];
/// What is done in a root, as a service of the systemd that is its pid 1. The packages and the kernel are in
/// /case.
const SCRIPT: &str = include_str!("../../assets/packages.sh");
/// The service. What it says goes to /case/said, its verdict to /case/status; with it the root's systemd ends.
const SERVICE: &str = "[Service]
Type=oneshot
StandardOutput=file:/case/said
StandardError=file:/case/said
ExecStart=/bin/sh -c 'sh -eux /case/script; echo $? >/case/status'
ExecStopPost=/bin/systemctl exit
";
/// Boots a root's systemd in namespaces, with its own /dev and without what would reach this machine: its
/// modules, its clock, its devices and what is below /sys but the control groups. The root is one of its own, not
/// a chroot, in which a jailer cannot make user namespaces; and its /proc is whole, without which the jailer's
/// cannot be had.
const BOOT: &str = r#"set -e
root="$1"
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount -o remount,ro,bind sys
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for node in null zero full random urandom tty kvm net/tun; do
    [ ! -e "/dev/$node" ] || cp -a "/dev/$node" "dev/$node"
done
ln -s /proc/self/fd dev/fd
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
# It would set this machine's.
ln -sf /dev/null etc/systemd/system/systemd-sysctl.service
mkdir -p .old
pivot_root . .old
export container=other SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1
exec chroot . sh -c 'umount -l /.old && rmdir /.old &&
    exec setpriv --bounding-set -sys_boot,-sys_module,-sys_time /lib/systemd/systemd --unit=case.service'"#;

/// Whether a filter chooses the case.
pub(crate) fn is_chosen(filter: &str) -> bool {
    CASE.contains(filter)
}

/// Runs the case with what is built in `dist`. It takes root and a `/dev/kvm`.
pub(crate) fn run(dist: &Path) -> Result<()> {
    ensure!(geteuid().is_root(), "packages are installed by root only");
    let dir = Scratch::new("packages")?;
    let own = |changelog: &str, name| packed(Arch::own(), dist, changelog, &dir.path().join(name));
    let first = own(&changelog()?, "first")?;
    let second = own(&changelog()?, "second")?;
    for (first, second) in first.iter().zip(&second) {
        ensure!(
            fs::read(first)? == fs::read(second)?,
            "two packages of the same programs differ: {}",
            file_name(first)
        );
    }
    lintian(&first)?;
    let next = own(&next(&changelog()?)?, "next")?;
    for release in RELEASES {
        in_a_root(release, &first, &next, dir.path())?;
    }
    Ok(())
}

/// Runs the case of another architecture with what is built for it in `dist`.
pub(crate) fn run_for(arch: Arch, dist: &Path) -> Result<()> {
    let dir = Scratch::new("packages")?;
    let packages = packed(arch, dist, &changelog()?, &dir.path().join("first"))?;
    let mut ask = command("dpkg-deb", ["--field"]);
    let said = output(ask.arg(&packages[0]).arg("Architecture"))?;
    let said = String::from_utf8_lossy(&said);
    ensure!(
        said.trim() == arch.names().debian,
        "the package says that it is for {said}"
    );
    lintian(&packages)
}

fn packed(arch: Arch, dist: &Path, changelog: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    pack(arch, dist, changelog, dir)
}

/// Lintian finds no error; a program of another architecture than the package's is one.
fn lintian(debs: &[PathBuf]) -> Result<()> {
    packages::ensure(packages::LINTIAN)?;
    progress::step("lintian", || {
        let lintian = &mut command("lintian", ["--fail-on", "error", "--allow-root"]);
        let status = loud(lintian.args(debs))?;
        ensure!(status.success(), "lintian: {status}");
        Ok(())
    })
}

/// The changelog of a version after this one.
fn next(changelog: &str) -> Result<String> {
    let (before, after) = changelog.split_once(") ").context("the changelog")?;
    Ok(format!("{before}+next) {after}"))
}

fn in_a_root(
    release: &'static str,
    first: &[PathBuf],
    next: &[PathBuf],
    scratch: &Path,
) -> Result<()> {
    let archive = fresh_root(release)?;
    let root = scratch.join(release);
    let case = root.join("case");
    fs::create_dir_all(&case)?;
    let mut unpack = command("tar", ["-x", "-p", "--numeric-owner", "-C"]);
    quiet(unpack.arg(&root).arg("-f").arg(&archive))?;
    for (deb, name) in first.iter().zip(["first.deb", "agent.deb"]) {
        fs::copy(deb, case.join(name))?;
    }
    for (deb, name) in next.iter().zip(["next.deb", "next-agent.deb"]) {
        fs::copy(deb, case.join(name))?;
    }
    fs::write(case.join("script"), SCRIPT)?;
    fs::write(root.join("etc/systemd/system/case.service"), SERVICE)?;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    fs::write(case.join("kernel"), kernel.to_image())?;
    File::create(case.join("disk"))?.set_len(1 << 20)?;
    progress::step(
        &format!("{} in a fresh {release}", file_name(&first[0])),
        || {
            // With it everything ends that it has started.
            let mut boot = command("timeout", ["--signal=KILL", LIMIT_SECONDS, "unshare"]);
            boot.args(["--mount", "--pid", "--cgroup", "--ipc", "--uts"]);
            boot.args(["--fork", "--kill-child"]);
            boot.args(["--", "sh", "-c", BOOT, "sh"]).arg(&root);
            let ended = loud(boot.stdin(Stdio::null()))?;
            let verdict = fs::read_to_string(case.join("status")).unwrap_or_default();
            ensure!(
                verdict.trim() == "0",
                "{release}: status {}, systemd: {ended}: {}",
                verdict.trim(),
                last_steps(&case.join("said"))
            );
            Ok(())
        },
    )
}

/// What the script did last, and what the programs said that it ran; all of it is shown.
fn last_steps(said: &Path) -> String {
    const STEPS: usize = 6;
    let said = fs::read(said).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    eprintln!("{said}");
    let lines: Vec<_> = said.lines().collect();
    lines[lines.len().saturating_sub(STEPS)..].join("; ")
}

/// A fresh root of a release, as an archive.
fn fresh_root(release: &'static str) -> Result<PathBuf> {
    let recipe = [
        release,
        Arch::own().names().debian,
        &format!("{PACKAGES:?}"),
    ];
    let entry = cache::entry("root", &recipe, |dir| {
        packages::ensure(packages::DEBIAN)?;
        let release = Release::open(release, Arch::own())?;
        let work = Scratch::new_in(dir, "work")?;
        let bootstrap = Bootstrap::system(&release, work.path(), PACKAGES, &[])?;
        let what = format!("making a root of {} (about a minute)", release.name());
        progress::step(&what, || {
            let mut write = command("dd", ["status=none"]);
            let mut of = std::ffi::OsString::from("of=");
            of.push(dir.join("root.tar"));
            bootstrap.into(write.arg(of))
        })
    })?;
    Ok(entry.join("root.tar"))
}
