// SPDX-License-Identifier: Apache-2.0
//! Debian packages of what `cargo xtask dist` has built: `packaging/` says what goes where, debhelper
//! does it.

mod case;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::arch::Arch;
use crate::command::{command, file_name, quiet};
use crate::{compile, packages, progress};

pub(crate) use case::{CASE, CASE_OF_ANOTHER, is_chosen, run, run_for};

/// What of the tree is in the package besides `dist/`: where it is, and where debhelper looks for it.
const FILES: &[(&str, &str)] = &[
    ("README.md", "README.md"),
    ("SECURITY.md", "SECURITY.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("docs/guide.md", "docs/guide.md"),
    ("docs/security.md", "docs/security.md"),
    ("packaging/apparmor", "apparmor"),
    ("packaging/debian", "debian"),
    ("docs/cluster.md", "docs/cluster.md"),
    ("packaging/examples", "examples"),
    ("packaging/ocf", "ocf"),
    ("packaging/bulkhead@.service", "debian/bulkhead@.service"),
    ("packaging/tmpfiles.conf", "debian/bulkhead.tmpfiles"),
];

/// How many packages there are: that of the programs, and that of the agent for Pacemaker.
const PACKAGES: usize = 2;

/// Packs the programs and what belongs to them from `dist`, into `dir`, that of the programs first.
/// `changelog` is that of `packaging/debian` or takes its place: it has the version.
pub(crate) fn pack(arch: Arch, dist: &Path, changelog: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    packages::ensure(packages::DEB)?;
    let source = dir.join("bulkhead");
    let root = compile::root()?;
    copy(dist, &source.join("dist"))?;
    for (from, to) in FILES {
        copy(&root.join(from), &source.join(to))?;
    }
    fs::write(source.join("debian/changelog"), changelog)?;
    progress::step("packing", || {
        let mut build = command(
            "dpkg-buildpackage",
            ["--build=binary", "--no-sign", "--no-check-builddeps"],
        );
        // A compiler for the other architecture is not needed, and need not be there.
        build.args(["--host-arch", arch.names().debian]);
        quiet(build.current_dir(&source))
    })?;
    let found = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let debs = found.filter(|path| path.extension().is_some_and(|e| e == "deb"));
    let mut debs: Vec<_> = debs.collect();
    debs.sort_by_key(|path| !file_name(path).starts_with("bulkhead_"));
    ensure!(
        debs.len() == PACKAGES,
        "dpkg-buildpackage made {} packages",
        debs.len()
    );
    Ok(debs)
}

/// The changelog of the package. Its date is that of all files in it, which makes builds repeatable.
pub(crate) fn changelog() -> Result<String> {
    let path = compile::root()?.join("packaging/debian/changelog");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Copies a file or a tree; modes stay.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    quiet(&mut command(
        "cp",
        [Path::new("-rT"), Path::new("--preserve=mode"), from, to],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_the_package_is_that_of_the_programs() {
        let first = changelog().unwrap().lines().next().unwrap().to_owned();

        let version = format!("bulkhead ({}) ", env!("CARGO_PKG_VERSION"));
        assert!(first.starts_with(&version), "{first}");
    }
}
