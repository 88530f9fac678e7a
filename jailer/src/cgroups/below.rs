// SPDX-License-Identifier: Apache-2.0
//! Finds the group that `--cgroup` names, in every hierarchy, and checks that groups can be made
//! below it and processes be moved there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, geteuid};
use spec::SpecError;

use super::host::{Hierarchy, Version};

/// Where control groups are mounted by convention.
const MOUNTS: &str = "/sys/fs/cgroup";

/// The directory of the group `path` in each hierarchy.
pub(super) fn parents(path: &Path, hierarchies: &[Hierarchy]) -> Result<Vec<PathBuf>, SpecError> {
    let refused = |reason| SpecError::new("cgroup", path.display(), reason);
    if hierarchies.is_empty() {
        let reason = "this host mounts no control groups: leave it out, or use inherit";
        return Err(refused(reason.into()));
    }
    let group = group(path, hierarchies).map_err(refused)?;
    let parents = hierarchies.iter().map(|hierarchy| {
        let dir = dir(&group, hierarchy)?;
        check(&dir, hierarchy).map(|()| dir)
    });
    parents.collect::<Result<_, _>>().map_err(refused)
}

/// The group as `/proc/PID/cgroup` names it. Its directory names it, too, where there is one
/// hierarchy, of version 2.
fn group(path: &Path, hierarchies: &[Hierarchy]) -> Result<PathBuf, String> {
    for hierarchy in hierarchies {
        let Ok(below) = path.strip_prefix(&hierarchy.mount) else {
            continue;
        };
        let group = hierarchy.root.join(below);
        let version = match (hierarchy.version, hierarchies) {
            (Version::Two, [_]) => return Ok(group),
            (Version::One, _) => "version 1, which has one for every controller",
            (Version::Two, _) => "version 2, beside which this host has others of version 1",
        };
        let group = group.display();
        return Err(format!(
            "is a directory in a hierarchy of {version}: name the group as /proc/PID/cgroup does, \
             {group}"
        ));
    }
    if path.starts_with(MOUNTS) {
        let reason =
            "is in no hierarchy with a controller: name the group as /proc/PID/cgroup does";
        return Err(reason.into());
    }
    Ok(path.into())
}

/// The group's directory in a hierarchy.
fn dir(group: &Path, hierarchy: &Hierarchy) -> Result<PathBuf, String> {
    let (root, names) = (hierarchy.root.display(), hierarchy.controllers.join(", "));
    match group.strip_prefix(&hierarchy.root) {
        Ok(below) => Ok(hierarchy.mount.join(below)),
        Err(_) => Err(format!("of {names} only what is below {root} is mounted")),
    }
}

/// Whether we may make groups in this directory.
fn check(dir: &Path, hierarchy: &Hierarchy) -> Result<(), String> {
    let (shown, names) = (dir.display(), hierarchy.controllers.join(", "));
    let procs = fs::read_to_string(dir.join("cgroup.procs"));
    let Ok(procs) = procs else {
        return Err(format!(
            "there is no group {shown}, for {names}: make it, or name another"
        ));
    };
    if let Err(errno) = access(dir, AccessFlags::W_OK) {
        let owner = dir.metadata().map_or(0, |found| found.uid());
        return Err(match errno {
            Errno::EACCES => format!(
                "{shown} belongs to user {owner}: have it delegated to you (chown), or name another"
            ),
            _ => format!("{shown}: {}", errno.desc()),
        });
    }
    if hierarchy.version == Version::One {
        return Ok(());
    }
    // The root of all groups has no type, and may hold processes.
    let kind = fs::read_to_string(dir.join("cgroup.type"));
    match kind.as_deref().map(str::trim) {
        Ok("domain") if !procs.trim().is_empty() => {
            return Err(format!(
                "{shown} holds processes, and version 2 limits no groups below such a group: move \
                 them to a group below it, or name another"
            ));
        }
        Ok("domain") | Err(_) => {}
        Ok(other) => {
            return Err(format!(
                "{shown} is of type {other}: version 2 limits processes below type domain alone"
            ));
        }
    }
    may_move(&hierarchy.own, dir)
}

/// Whether we may move processes from our own group to one below `dir`. Only root can without a
/// group above both that is writable.
fn may_move(own: &Path, dir: &Path) -> Result<(), String> {
    let common = own.ancestors().find(|above| dir.starts_with(above));
    let common = common.unwrap_or(Path::new("/")).join("cgroup.procs");
    match access(&common, AccessFlags::W_OK) {
        _ if geteuid().is_root() => Ok(()),
        Ok(()) => Ok(()),
        Err(errno) => Err(format!(
            "no process may be moved there from {}: {}: {}; start in a group below the same \
             delegated one",
            own.display(),
            common.display(),
            errno.desc()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy with the group `box`, in a directory of ours.
    fn hierarchy(at: &Path, version: Version, procs: &str) -> Hierarchy {
        let group = at.join("box");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), procs).unwrap();
        if version == Version::Two {
            fs::write(group.join("cgroup.type"), "domain\n").unwrap();
        }
        Hierarchy {
            version,
            mount: at.into(),
            root: "/".into(),
            own: at.into(),
            controllers: vec!["cpu"],
        }
    }

    fn reason(path: &str, hierarchies: &[Hierarchy]) -> String {
        let error = parents(Path::new(path), hierarchies).unwrap_err();
        assert_eq!((error.field, error.value.as_str()), ("cgroup", path));
        error.reason
    }

    #[test]
    fn group_of_version_2_is_named_by_its_path_or_directory_and_holds_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = [dir.path().join("box")];
        let empty = [hierarchy(dir.path(), Version::Two, "")];
        for path in [Path::new("/box"), &wanted[0]] {
            assert_eq!(parents(path, &empty).unwrap(), wanted);
        }
        assert!(reason("/none", &empty).contains("make it"));
        let full = [hierarchy(dir.path(), Version::Two, "7\n")];
        assert!(reason("/box", &full).contains("holds processes"));
        fs::write(wanted[0].join("cgroup.type"), "threaded\n").unwrap();
        assert!(reason("/box", &full).contains("is of type threaded"));
    }

    #[test]
    fn group_of_version_1_may_hold_processes_and_must_be_in_every_hierarchy() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = [a.path(), b.path()].map(|dir| hierarchy(dir, Version::One, "7\n"));
        let found = parents(Path::new("/box"), &both).unwrap();
        assert_eq!(found, [a.path().join("box"), b.path().join("box")]);
        fs::remove_file(b.path().join("box/cgroup.procs")).unwrap();
        assert!(reason("/box", &both).contains(b.path().to_str().unwrap()));
    }

    #[test]
    fn directory_of_version_1_is_refused_with_the_group_s_name() {
        let dir = tempfile::tempdir().unwrap();
        let old = [hierarchy(dir.path(), Version::One, "")];
        let path = dir.path().join("box");
        let reason = reason(path.to_str().unwrap(), &old);
        assert!(
            reason.contains("version 1") && reason.ends_with(" /box"),
            "{reason}"
        );
    }

    #[test]
    fn part_of_a_hierarchy_that_is_mounted_has_the_groups_below_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = hierarchy(dir.path(), Version::Two, "");
        part.root = "/delegated".into();
        let found = parents(Path::new("/delegated/box"), std::slice::from_ref(&part));
        assert_eq!(found.unwrap(), [dir.path().join("box")]);
        assert!(reason("/box", &[part]).contains("below /delegated"));
    }

    #[test]
    fn host_without_groups_and_directories_of_no_hierarchy_are_told() {
        assert!(reason("/box", &[]).contains("mounts no control groups"));
        let dir = tempfile::tempdir().unwrap();
        let one = [hierarchy(dir.path(), Version::Two, "")];
        assert!(reason("/sys/fs/cgroup/unified/x", &one).contains("in no hierarchy"));
    }
}
