// SPDX-License-Identifier: Apache-2.0
//! The image with guests to test with, for an inner host to read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::foreign;
use super::hosts::InnerHost;
use crate::command::{command, file_name, program, quiet};
use crate::guests::{self, Kernels};
use crate::{cache, progress};

/// The image, made once.
pub(super) fn ready(host: &'static InnerHost, kernels: &Kernels) -> Result<PathBuf> {
    let guests = guests::ready(kernels)?;
    let mut recipe = vec![file_name(&guests)];
    let mut files = entries(&guests)?;
    if !host.arch.is_own() {
        let debian = foreign::debian(host, kernels)?;
        recipe.push(debian.display().to_string());
        files.push(debian);
    }
    let recipe: Vec<&str> = recipe.iter().map(String::as_str).collect();
    let entry = cache::entry("guests-image", &recipe, |dir| {
        progress::step("packing the guests' image", || {
            squash(&files, &dir.join("guests.squashfs"))
        })
    })?;
    Ok(entry.join("guests.squashfs"))
}

/// What is in a directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Packs files without compression: their readers are slower than any disk.
fn squash(files: &[PathBuf], image: &Path) -> Result<()> {
    let options = [
        "-noI",
        "-noD",
        "-noF",
        "-noX",
        "-all-root",
        "-quiet",
        "-no-progress",
    ];
    quiet(
        command(program("mksquashfs"), files)
            .arg(image)
            .args(options),
    )
}
