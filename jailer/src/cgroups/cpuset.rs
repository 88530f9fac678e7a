// SPDX-License-Identifier: Apache-2.0
//! The processors that a group of version 2 allows.

use std::fs;
use std::path::Path;

use spec::CpuSet;

/// What the kernel wrote of the group at `dir`, or of the nearest one above that has the controller;
/// `mount` is the topmost.
pub(super) fn of(dir: &Path, mount: &Path) -> Option<CpuSet> {
    let groups = dir.ancestors().take_while(|dir| dir.starts_with(mount));
    let files = groups.map(|dir| fs::read_to_string(dir.join("cpuset.cpus.effective")));
    files.flatten().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_group_that_has_the_controller_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("cgroup");
        let group = mount.join("a/b");
        fs::create_dir_all(&group).unwrap();
        fs::write(dir.path().join("cpuset.cpus.effective"), "9\n").unwrap();
        assert_eq!(of(&group, &mount), None);
        fs::write(mount.join("cpuset.cpus.effective"), "0-3\n").unwrap();
        assert_eq!(of(&group, &mount), "0-3".parse().ok());
        fs::write(mount.join("a/cpuset.cpus.effective"), "2\n").unwrap();
        assert_eq!(of(&group, &mount), "2".parse().ok());
    }
}
