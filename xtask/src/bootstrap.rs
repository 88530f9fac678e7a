// SPDX-License-Identifier: Apache-2.0
//! Trees of Debian packages, made by mmdebstrap.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::apt::{Release, transport_settings};
use crate::command::{command, piped};

/// What this machine cannot run is not configured: files that a package makes when it is are made here.
/// The tree is the argument.
const UNCONFIGURED: &str = r#"set -e
cd "$1"
for of in passwd group; do cp usr/share/base-passwd/$of.master etc/$of; done
ln -s mawk usr/bin/awk
ln -s which.debianutils usr/bin/which"#;

/// Where the archives of an installable tree's packages are.
pub(crate) const ARCHIVES: &str = "/archives";

/// One tree, as an archive that [`Bootstrap::into`] makes.
pub(crate) struct Bootstrap {
    debootstrap: Command,
    settings: PathBuf,
    /// The option by which commands on the finished tree are given.
    hook: &'static str,
}

impl Bootstrap {
    /// A whole Debian system with these packages, configured if this machine can run its programs.
    /// What matches `left_out` is not in it. `dir` is there for a while.
    pub(crate) fn system(
        release: &Release,
        dir: &Path,
        packages: &[&str],
        left_out: &[&str],
    ) -> Result<Self> {
        let mut new = if release.arch().is_own() {
            let mut new = Self::new(release, dir, "minbase", "--customize-hook")?;
            for path in left_out {
                let option = format!("--dpkgopt=path-exclude={path}");
                new.debootstrap.arg(option);
            }
            new.include(packages);
            new
        } else {
            Self::unpacked(release, dir, packages, left_out)?
        };
        new.hook(r#"rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*"#);
        Ok(new)
    }

    /// The same for another architecture, with the packages' archives in [`ARCHIVES`].
    pub(crate) fn installable(
        release: &Release,
        dir: &Path,
        packages: &[&str],
        left_out: &[&str],
    ) -> Result<Self> {
        let mut new = Self::unpacked(release, dir, packages, left_out)?;
        new.hook(&format!(
            r#"mkdir "$1"{ARCHIVES} && mv "$1"/var/cache/apt/archives/*.deb "$1"{ARCHIVES}"#
        ));
        new.hook(r#"rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*"#);
        Ok(new)
    }

    fn unpacked(
        release: &Release,
        dir: &Path,
        packages: &[&str],
        left_out: &[&str],
    ) -> Result<Self> {
        let mut new = Self::new(release, dir, "extract", "--extract-hook")?;
        new.debootstrap
            .args(["--include=?essential", "--include=?priority(required)"]);
        new.include(packages);
        new.hook(UNCONFIGURED);
        for path in left_out {
            new.hook(&format!(r#"rm -rf "$1"{path}"#));
        }
        Ok(new)
    }

    fn include(&mut self, packages: &[&str]) {
        let include = format!("--include={}", packages.join(","));
        self.debootstrap.arg(include);
    }

    /// A program and the libraries it needs.
    pub(crate) fn program(release: &Release, dir: &Path, package: &str) -> Result<Self> {
        let mut new = Self::new(release, dir, "extract", "--extract-hook")?;
        new.debootstrap.arg(format!("--include={package}"));
        Ok(new)
    }

    fn new(release: &Release, dir: &Path, variant: &str, hook: &'static str) -> Result<Self> {
        let settings = dir.join("transport.conf");
        fs::write(&settings, transport_settings()?)?;
        let mut debootstrap = command("mmdebstrap", ["--format=tar", "--quiet"]);
        debootstrap
            .arg(format!("--variant={variant}"))
            .arg(format!("--architectures={}", release.arch().names().debian))
            .arg(format!("--aptopt={}", settings.display()))
            .arg(release.name())
            .arg("-")
            .arg(release.sources());
        Ok(Self {
            debootstrap,
            settings,
            hook,
        })
    }

    /// Runs a shell command whose argument is the tree, or one of mmdebstrap's own.
    pub(crate) fn hook(&mut self, command: &str) {
        self.debootstrap.arg(format!("{}={command}", self.hook));
    }

    /// Adds what is in `from` to a directory of the tree.
    pub(crate) fn add(&mut self, from: &Path, to: &str) {
        self.hook(&format!(r#"mkdir -p "$1"{to}"#));
        // Only the hook that copies in can write the target in every mode that mmdebstrap has.
        self.hook(&format!("sync-in {} {to}", from.display()));
    }

    /// Makes it, as an archive for `sink` to read.
    pub(crate) fn into(mut self, sink: &mut Command) -> Result<()> {
        piped(&mut self.debootstrap, sink)?;
        fs::remove_file(&self.settings).context("transport.conf")
    }
}
