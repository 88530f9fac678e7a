// SPDX-License-Identifier: Apache-2.0
//! The VMs of the cluster, and what their guests have written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::no_os_kernel::NoOsKernel;
use serde_json::json;

const IMAGE_BYTES: u64 = 1 << 20;
const EVERY: Duration = Duration::from_millis(20);

/// Guests that count on a disk which all hosts reach.
pub(super) const SHARED: [&str; 2] = ["web", "db"];
/// A guest that counts on a disk of which each host has a copy, and that ignores its power button.
pub(super) const DEAF: &str = "app";
/// A VM that takes more memory than a host has.
pub(super) const BIG: &str = "big";

/// What a guest has on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// How often it was booted.
    pub(super) boots: u32,
    /// How many sectors it has written, in all its boots.
    pub(super) writes: u32,
}

/// Writes kernels, images and documents.
pub(super) fn make(case: &Path, hosts: &[String]) -> Result<()> {
    for dir in ["srv/vms", "srv/images", "srv/console"] {
        fs::create_dir_all(case.join(dir))?;
    }
    for (name, is_deaf) in [("keeper", false), ("deaf", true)] {
        let kernel = NoOsKernel::new().keep(is_deaf);
        ensure!(kernel.lacks().is_none(), "no such guest on this machine");
        fs::write(case.join("srv/vms").join(name), kernel.to_image())?;
    }
    for name in SHARED {
        let image = case.join("srv/images").join(format!("{name}.img"));
        File::create(image)?.set_len(IMAGE_BYTES)?;
        document(case, name, "keeper", &format!("/srv/images/{name}.img"), 40)?;
    }
    for host in hosts {
        let local = case.join("local").join(host);
        fs::create_dir_all(&local)?;
        File::create(local.join("app.img"))?.set_len(IMAGE_BYTES)?;
    }
    document(case, DEAF, "deaf", "/run/local/app.img", 40)?;
    document(case, BIG, "keeper", "/srv/images/big.img", 150)?;
    File::create(case.join("srv/images/big.img"))?.set_len(IMAGE_BYTES)?;
    Ok(())
}

/// Writes a document. The hosts are in one group of this machine, so that the VMs make none.
pub(super) fn document(case: &Path, name: &str, kernel: &str, disk: &str, mib: u32) -> Result<()> {
    let vm = json!({
        "name": name,
        "kernel": format!("/srv/vms/{kernel}"),
        "mem": format!("{mib}M"),
        "console": format!("file=/srv/console/{name}"),
        "disks": [{ "path": disk }],
        "cgroup": "inherit",
    });
    let path = case.join(format!("srv/vms/{name}.json"));
    fs::write(&path, vm.to_string()).with_context(|| path.display().to_string())
}

/// What is on an image.
pub(super) fn count(image: &Path) -> Result<Count> {
    let mut bytes = [0; 8];
    File::open(image)?.read_exact_at(&mut bytes, 0)?;
    let [a, b, c, d, e, f, g, h] = bytes;
    Ok(Count {
        boots: u32::from_le_bytes([a, b, c, d]),
        writes: u32::from_le_bytes([e, f, g, h]),
    })
}

/// Waits until something holds.
pub(super) fn until(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        if holds()? {
            return Ok(begun.elapsed());
        }
        ensure!(
            begun.elapsed() < limit,
            "{what}: not in {} s",
            limit.as_secs()
        );
        thread::sleep(EVERY);
    }
}
