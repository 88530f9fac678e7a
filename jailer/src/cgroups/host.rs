// SPDX-License-Identifier: Apache-2.0
//! Finds this host's cgroups: which controllers are in which hierarchy, and our own group there.

use std::fs;
use std::path::{Path, PathBuf};

/// The controllers that we use: the name in version 2, and in version 1.
const WANTED: [(&str, &str); 4] = [
    ("cpu", "cpu"),
    ("pids", "pids"),
    ("io", "blkio"),
    ("memory", "memory"),
];

/// The version of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// A cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) mount: PathBuf,
    /// The group that is mounted there, as /proc/self/cgroup names groups.
    pub(crate) root: PathBuf,
    /// The directory of our own group.
    pub(crate) own: PathBuf,
    /// Which of [`WANTED`] are here, by their names in version 2.
    pub(crate) controllers: Vec<&'static str>,
}

/// The hierarchies with a controller that we use, and the controllers that no hierarchy has.
pub(crate) fn hierarchies() -> (Vec<Hierarchy>, Vec<String>) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let offered =
        |mount: &Path| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let found = find(
        &read("/proc/self/mountinfo"),
        &read("/proc/self/cgroup"),
        offered,
    );
    let has = |wanted| found.iter().any(|h| h.controllers.contains(&wanted));
    let missing = WANTED.iter().filter(|(name, _)| !has(name));
    let missing = missing.map(|(name, _)| format!("this host's cgroups have no {name} controller"));
    let missing = missing.collect();
    (found, missing)
}

/// Finds the hierarchies in a mountinfo; `offered` reads the controllers of a version 2 mount.
fn find(mountinfo: &str, own: &str, offered: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    let mut left: Vec<_> = WANTED.to_vec();
    for line in mountinfo.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let (mut place, mut kind) = (place.split(' ').skip(3), kind.split(' '));
        let (Some(root), Some(mount)) = (place.next(), place.next()) else {
            continue;
        };
        let mount = PathBuf::from(mount);
        let options = |kind: &mut dyn Iterator<Item = &str>| kind.nth(1).map(str::to_string);
        let (version, words) = match kind.next() {
            Some("cgroup2") => (Version::Two, offered(&mount)),
            Some("cgroup") => (Version::One, options(&mut kind).unwrap_or_default()),
            _ => continue,
        };
        let words: Vec<&str> = words.split([',', ' ', '\n']).collect();
        let is_here = |(new, old): &(&str, &str)| match version {
            Version::One => words.contains(old),
            Version::Two => words.contains(new),
        };
        let controllers: Vec<_> = left.extract_if(.., |wanted| is_here(wanted)).collect();
        if let Some((_, first)) = controllers.first() {
            let path = own_path(own, version, first);
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            found.push(Hierarchy {
                version,
                own: mount.join(below),
                root: root.into(),
                mount,
                controllers: controllers.iter().map(|(name, _)| *name).collect(),
            });
        }
    }
    found
}

/// Which versions there are, what `--cgroup` can name, and where we were started.
pub(crate) fn versions(hierarchies: &[Hierarchy]) -> Result<String, String> {
    let of = |version| {
        let own = hierarchies.iter().filter(|h| h.version == version);
        own.flat_map(|h| h.controllers.clone()).collect::<Vec<_>>()
    };
    let (old, new) = (of(Version::One).join(", "), of(Version::Two).join(", "));
    let what = match (old.is_empty(), new.is_empty()) {
        (true, true) => {
            let reason = "none with a controller is mounted: --cgroup inherit alone is possible";
            return Err(reason.into());
        }
        (true, false) => "2 alone: --cgroup takes a group without processes".into(),
        (false, true) => format!("1 alone: --cgroup takes a group that is there for {old}"),
        (false, false) => format!(
            "1 for {old}, 2 for {new}: --cgroup takes a group that is there for each of them"
        ),
    };
    let mut groups: Vec<_> = hierarchies.iter().map(Hierarchy::own_group).collect();
    groups.sort();
    groups.dedup();
    let groups: Vec<_> = groups
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Ok(format!("{what}; started in {}", groups.join(", ")))
}

impl Hierarchy {
    /// Our own group, as /proc/self/cgroup names it.
    fn own_group(&self) -> PathBuf {
        let below = self.own.strip_prefix(&self.mount).unwrap_or(&self.own);
        self.root.join(below).components().collect()
    }
}

/// Our own group in one hierarchy, according to /proc/self/cgroup.
fn own_path<'a>(own: &'a str, version: Version, controller: &str) -> &'a str {
    let line = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match version {
            Version::Two => names.is_empty(),
            Version::One => names.split(',').any(|name| name == controller),
        };
        is_it.then_some(path)
    });
    line.unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mount: &str, own: &str, version: Version, names: &[&'static str]) -> Hierarchy {
        Hierarchy {
            version,
            mount: mount.into(),
            root: "/".into(),
            own: own.into(),
            controllers: names.to_vec(),
        }
    }

    #[test]
    fn versions_say_what_a_group_must_be_like_and_where_we_are() {
        let new = all("/cg", "/cg/a/b", Version::Two, &["cpu", "memory"]);
        let old = all("/old", "/old/", Version::One, &["pids"]);
        let said = versions(std::slice::from_ref(&new)).unwrap();
        assert!(
            said.starts_with("2 alone") && said.ends_with("started in /a/b"),
            "{said}"
        );
        let said = versions(std::slice::from_ref(&old)).unwrap();
        assert!(
            said.starts_with("1 alone") && said.ends_with("started in /"),
            "{said}"
        );
        let said = versions(&[new, old]).unwrap();
        assert!(said.starts_with("1 for pids, 2 for cpu, memory"), "{said}");
        assert!(said.ends_with("started in /, /a/b"), "{said}");
        assert!(versions(&[]).unwrap_err().contains("inherit"));
    }

    #[test]
    fn host_of_version_2_has_one_tree() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                      31 23 0:27 / /sys rw - sysfs sysfs rw\n";
        let found = find(mounts, "0::/user.slice/a.scope\n", |_| {
            "cpuset cpu io memory hugetlb pids\n".into()
        });
        let own = "/sys/fs/cgroup/user.slice/a.scope";
        let names = ["cpu", "pids", "io", "memory"];
        assert_eq!(found, [all("/sys/fs/cgroup", own, Version::Two, &names)]);
    }

    #[test]
    fn host_of_both_versions_has_each_controller_once() {
        let mounts = "32 31 0:29 / /cg/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 /box /cg/memory rw,relatime - cgroup cgroup rw,memory\n\
                      39 31 0:36 / /cg/pids rw,relatime - cgroup cgroup rw,pids\n\
                      40 31 0:37 / /cg/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /cg/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/s\n8:pids:/\n4:memory:/box/inner\n1:cpu,cpuacct:/c\n0::/\n";
        let found = find(mounts, own, |_| "hugetlb io\n".into());
        let wanted = [
            all(
                "/cg/cpu,cpuacct",
                "/cg/cpu,cpuacct/c",
                Version::One,
                &["cpu"],
            ),
            Hierarchy {
                root: "/box".into(),
                ..all("/cg/memory", "/cg/memory/inner", Version::One, &["memory"])
            },
            all("/cg/pids", "/cg/pids/", Version::One, &["pids"]),
            all("/cg/unified", "/cg/unified/", Version::Two, &["io"]),
        ];
        assert_eq!(found, wanted);
    }
}
