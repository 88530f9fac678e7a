// SPDX-License-Identifier: Apache-2.0
//! Debian's root file system for guests of another architecture: unpacked here, installed in an inner
//! host, the only machine at hand that runs its programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::hosts::InnerHost;
use super::images::{self, Third};
use super::{Job, qemu};
use crate::bootstrap::ARCHIVES;
use crate::guests::{Kernels, debian};
use crate::{cache, progress};

const INSTALL: &str = include_str!("../../assets/debian-install.sh");
/// Emulation takes a few minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// The image, made once.
pub(super) fn debian(host: &'static InnerHost, kernels: &Kernels) -> Result<PathBuf> {
    let recipe = [host.arch.names().debian, INSTALL, &debian::recipe()];
    let entry = cache::entry("debian", &recipe, |dir| {
        debian::unpacked(kernels, dir)?;
        progress::step(
            "installing its packages in an inner host (some minutes)",
            || install(host, kernels, &dir.join(debian::IMAGE)),
        )
    })?;
    Ok(entry.join(debian::IMAGE))
}

fn install(host: &'static InnerHost, kernels: &Kernels, image: &Path) -> Result<()> {
    let images = images::ready(host, kernels, Third::Work(image.to_owned()))?;
    let excluded: Vec<String> = debian::LEFT_OUT
        .iter()
        .map(|path| format!("--path-exclude={path}"))
        .collect();
    let variables = format!("ARCHIVES={ARCHIVES}; EXCLUDE='{}'", excluded.join(" "));
    let job = Job {
        host,
        command: ["sh", "-c", &format!("{variables}\n{INSTALL}")]
            .map(str::to_owned)
            .to_vec(),
        binaries: Vec::new(),
        limit: LIMIT,
        silence: None,
    };
    let finished = qemu::run(&images, &job, |_| false)?;
    let status = finished.status?;
    ensure!(
        status == 0,
        "the inner host could not install Debian's packages: {}",
        finished.stdout
    );
    Ok(())
}
