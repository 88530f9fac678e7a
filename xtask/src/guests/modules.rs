// SPDX-License-Identifier: Apache-2.0
//! Kernel modules of an unpacked kernel package, with what they depend on, decompressed.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::command::{command, file_name, output};

/// One module, ready for `insmod`.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// The kernel release (`uname -r`) of the package unpacked in `tree`.
pub(crate) fn version(tree: &Path) -> Result<String> {
    let dir = tree.join("lib/modules");
    let mut entries = fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))?;
    let entry = entries
        .next()
        .ok_or_else(|| anyhow!("{} is empty", dir.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Those of `wanted` that are not built in and what they need, each after what it needs.
pub(crate) fn in_order(tree: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let dir = tree.join("lib/modules").join(version(tree)?);
    let text = fs::read_to_string(dir.join("modules.dep")).context("modules.dep")?;
    let needs: HashMap<&str, Vec<&str>> = text.lines().filter_map(dependencies).collect();
    let mut paths: Vec<&str> = Vec::new();
    for name in wanted {
        let Some(path) = needs.keys().find(|path| stem(path) == *name) else {
            continue;
        };
        // modules.dep lists the nearest dependency first.
        for path in needs[path].iter().rev().chain([path]) {
            if !paths.contains(path) {
                paths.push(path);
            }
        }
    }
    paths
        .into_iter()
        .map(|path| load(&dir.join(path)))
        .collect()
}

fn dependencies(line: &str) -> Option<(&str, Vec<&str>)> {
    let (path, needs) = line.split_once(':')?;
    Some((path, needs.split_whitespace().collect()))
}

fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split(".ko").next().unwrap_or(name)
}

fn load(path: &Path) -> Result<Module> {
    let name = format!("{}.ko", stem(&file_name(path)));
    let content = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => output(command("xz", ["-dc"]).arg(path))?,
        _ => fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
    };
    Ok(Module { name, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_module_has_its_plain_name() {
        assert_eq!(
            stem("kernel/drivers/misc/pvpanic/pvpanic-mmio.ko.xz"),
            "pvpanic-mmio"
        );
    }
}
