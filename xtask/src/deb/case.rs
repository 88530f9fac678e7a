// SPDX-License-Identifier: Apache-2.0
//! The case of the packages: they are built the same twice, lintian finds no error, and in fresh roots
//! of two Debian releases they are installed, run a VM by the command of their unit, are updated while
//! it runs, and are removed without a trace.

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
use crate::command::{command, file_name, loud, quiet};
use crate::scratch::Scratch;
use crate::{cache, packages, progress};

/// The case's name among those of the end-to-end runner.
pub(crate) const CASE: &str = "packages_are_installed_updated_and_removed_under_a_vm";

/// What is done in a root takes some seconds.
const LIMIT_SECONDS: &str = "300";
/// The releases of Debian that the package is for.
const RELEASES: [&str; 2] = ["bookworm", "trixie"];
/// What a fresh root has besides the required packages.
const PACKAGES: &[&str] = &["apparmor", "procps", "systemd", "util-linux"];
/// What is done in a root, as its pid 1. The packages and the kernel are in /case.
const SCRIPT: &str = include_str!("../../assets/packages.sh");
/// Puts the script into a root of its own: a jailer cannot make user namespaces in a chroot.
const ENTER: &str = r#"set -e
root="$1"
mount --make-rprivate /
mount --bind "$root" "$root"
for dir in dev sys; do mount --rbind /$dir "$root/$dir"; done
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
cd "$root"
mkdir -p .old
pivot_root . .old
exec chroot . sh -c 'umount -l /.old && rmdir /.old && exec sh -eux /case/script 2>/case/trace'"#;

/// Whether a filter chooses the case.
pub(crate) fn is_chosen(filter: &str) -> bool {
    CASE.contains(filter)
}

/// Runs the case with what is built in `dist`. It takes root and a `/dev/kvm`.
pub(crate) fn run(dist: &Path) -> Result<()> {
    ensure!(geteuid().is_root(), "packages are installed by root only");
    let dir = Scratch::new("packages")?;
    let first = packed(dist, &changelog()?, &dir.path().join("first"))?;
    let second = packed(dist, &changelog()?, &dir.path().join("second"))?;
    for (first, second) in first.iter().zip(&second) {
        ensure!(
            fs::read(first)? == fs::read(second)?,
            "two packages of the same programs differ: {}",
            file_name(first)
        );
    }
    packages::ensure(packages::LINTIAN)?;
    progress::step("lintian", || {
        let lintian = &mut command("lintian", ["--fail-on", "error", "--allow-root"]);
        let status = loud(lintian.args(&first))?;
        ensure!(status.success(), "lintian: {status}");
        Ok(())
    })?;
    let next = packed(dist, &next(&changelog()?)?, &dir.path().join("next"))?;
    for release in RELEASES {
        in_a_root(release, &first[0], &next[0], dir.path())?;
    }
    Ok(())
}

fn packed(dist: &Path, changelog: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    pack(Arch::own(), dist, changelog, dir)
}

/// The changelog of a version after this one.
fn next(changelog: &str) -> Result<String> {
    let (before, after) = changelog.split_once(") ").context("the changelog")?;
    Ok(format!("{before}+next) {after}"))
}

fn in_a_root(release: &'static str, first: &Path, next: &Path, scratch: &Path) -> Result<()> {
    let archive = fresh_root(release)?;
    let root = scratch.join(release);
    let case = root.join("case");
    fs::create_dir_all(&case)?;
    let mut unpack = command("tar", ["-x", "-p", "--numeric-owner", "-C"]);
    quiet(unpack.arg(&root).arg("-f").arg(&archive))?;
    fs::copy(first, case.join("first.deb"))?;
    fs::copy(next, case.join("next.deb"))?;
    fs::write(case.join("script"), SCRIPT)?;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    fs::write(case.join("kernel"), kernel.to_image())?;
    File::create(case.join("disk"))?.set_len(1 << 20)?;
    progress::step(
        &format!("{} in a fresh {release}", file_name(first)),
        || {
            // With it everything ends that it has started.
            let mut enter = command("timeout", ["--signal=KILL", LIMIT_SECONDS, "unshare"]);
            enter.args(["--mount", "--pid", "--fork", "--kill-child"]);
            enter.args(["--", "sh", "-c", ENTER, "sh"]).arg(&root);
            let status = loud(enter.stdin(Stdio::null()))?;
            ensure!(
                status.success(),
                "{release}: {status}: {}",
                last_steps(&case.join("trace"))
            );
            Ok(())
        },
    )
}

/// What the script did last, and what the programs said that it ran; all of it is shown.
fn last_steps(trace: &Path) -> String {
    const STEPS: usize = 6;
    let trace = fs::read(trace).unwrap_or_default();
    let trace = String::from_utf8_lossy(&trace);
    eprintln!("{trace}");
    let lines: Vec<_> = trace.lines().collect();
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
