// SPDX-License-Identifier: Apache-2.0
//! The VM's control groups: one for the VM, and in it one for each process. Version 2, version 1,
//! or both side by side, whatever this host has.
//!
//! The jailer makes a process's group and moves the process into it, by process id, when nothing
//! more urgent is to be done: the kernel may take some ten milliseconds for it. Until then the
//! process is in its parent's group.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{AccessFlags, Pid, access, geteuid};
use spec::{Cgroup, CpuSet, Held, SpecError, Vm};

mod below;
mod cpuset;
mod host;
mod leaf;
mod limits;
mod oom;
mod remove;

pub(super) use limits::drive_of;
pub(crate) use remove::sweep;

use self::host::{Hierarchy, Version};
use self::leaf::{Leaf, SUPERVISOR};

/// The number of an image's drive, or why it has none.
pub(crate) type Drive = Result<libc::dev_t, String>;

/// The group above the groups of all VMs.
const TOP: &str = "bulkhead";

/// What this host has, and what it lacks or does not let us use, one line each.
pub(crate) fn describe() -> (Vec<String>, Vec<String>) {
    let (hierarchies, mut missing) = host::hierarchies();
    let mut found = Vec::new();
    for hierarchy in &hierarchies {
        let (names, parent) = (hierarchy.controllers.join(", "), parent(hierarchy));
        let version = match hierarchy.version {
            Version::One => 1,
            Version::Two => 2,
        };
        let line = format!("{names}: version {version} at {}", parent.display());
        match access(parent, AccessFlags::W_OK) {
            Ok(()) => found.push(line),
            Err(errno) => missing.push(format!("{line} ({})", errno.desc())),
        }
    }
    (found, missing)
}

/// Which versions this host has, and what `--cgroup` can do with them.
pub(crate) fn versions() -> Result<String, String> {
    let (hierarchies, _) = host::hierarchies();
    host::versions(&hierarchies)
}

/// The directory in which we make groups, if the spec does not say where.
fn parent(hierarchy: &Hierarchy) -> &Path {
    match hierarchy.version {
        // Below the root, version 2 allows no group both processes and child groups with
        // controllers.
        Version::Two if geteuid().is_root() => &hierarchy.mount,
        _ => &hierarchy.own,
    }
}

/// The processors that the VM's groups allow, as far as version 2 tells; `None` if the processes stay
/// in our own group of processors.
pub(crate) fn cpus(vm: &Vm) -> Option<CpuSet> {
    let (hierarchies, _) = host::hierarchies();
    let parents = match &vm.cgroup {
        Some(Cgroup::Inherit) => return None,
        Some(Cgroup::Below(path)) => below::parents(path, &hierarchies).ok()?,
        None => hierarchies.iter().map(|h| parent(h).to_owned()).collect(),
    };
    let all = hierarchies.iter().zip(parents);
    let mut new = all.filter(|(hierarchy, _)| hierarchy.version == Version::Two);
    new.find_map(|(hierarchy, parent)| cpuset::of(&parent, &hierarchy.mount))
}

/// Removes groups of VMs of which nothing else is left, in the place where VMs have their groups if
/// their specs do not say where.
pub(crate) fn sweep_forgotten() {
    let (hierarchies, _) = host::hierarchies();
    for hierarchy in &hierarchies {
        sweep_forgotten_in(&parent(hierarchy).join(TOP));
    }
}

fn sweep_forgotten_in(top: &Path) {
    remove::forgotten(top, |jailer| kill(jailer, None) != Err(Errno::ESRCH));
}

/// The groups of one VM.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// The VM's group in each hierarchy.
    groups: Vec<Group>,
    leaves: Vec<Leaf>,
    /// The group that the user wants them below.
    demanded: Option<PathBuf>,
}

#[derive(Debug)]
struct Group {
    hierarchy: Hierarchy,
    dir: PathBuf,
    /// Whether each process has its own group here. Memory is accounted for the VM as a whole: the
    /// kernel charges a page to the process that touched it first.
    has_leaves: bool,
    /// Whether the number of threads is limited here.
    counts_threads: bool,
    /// The supervisor's group, if clone3(2) can spawn into it.
    initial_cgroup: Option<File>,
}

impl Cgroups {
    /// Plans a VM's groups and makes none yet; also returns what this host lacks.
    pub(crate) fn plan(vm: &Vm, name: &str, jailer: Pid) -> Result<(Self, Vec<String>), SpecError> {
        let (hierarchies, mut missing) = host::hierarchies();
        let parents = match &vm.cgroup {
            Some(Cgroup::Inherit) => return Ok((Self::none(), Vec::new())),
            Some(Cgroup::Below(path)) => below::parents(path, &hierarchies)?,
            None => hierarchies.iter().map(|h| parent(h).to_owned()).collect(),
        };
        if hierarchies.is_empty() && missing.is_empty() {
            missing.push("this host mounts no cgroups: processes are not accounted".into());
        }
        let groups = hierarchies.into_iter().zip(parents);
        let groups = groups.map(|(hierarchy, parent)| Group {
            dir: parent.join(TOP).join(format!("{name}-{jailer}")),
            has_leaves: hierarchy.controllers.iter().any(|c| *c != "memory"),
            hierarchy,
            counts_threads: false,
            initial_cgroup: None,
        });
        let cgroups = Self {
            groups: groups.collect(),
            leaves: leaf::all(vm),
            demanded: match &vm.cgroup {
                Some(Cgroup::Below(path)) => Some(path.clone()),
                Some(Cgroup::Inherit) | None => None,
            },
        };
        Ok((cgroups, missing))
    }

    /// No groups: processes stay where they are born.
    fn none() -> Self {
        Self {
            groups: Vec::new(),
            leaves: Vec::new(),
            demanded: None,
        }
    }

    /// The directories of the VM's groups, recorded for a later sweep.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.groups.iter().map(|group| group.dir.as_path())
    }

    /// Makes the groups. Leaves out those it cannot make, and returns a line for each; an error if the
    /// user said where they are to be.
    pub(crate) fn make(&mut self) -> Result<Vec<String>, SpecError> {
        let (mut missing, mut refused) = (Vec::new(), None);
        let leaves = &self.leaves;
        self.groups.retain_mut(|group| match group.make(leaves) {
            Ok(unavailable) => {
                if !unavailable.is_empty() {
                    let (dir, which) = (group.dir.display(), unavailable.join(", "));
                    missing.push(format!("cgroup {dir}: cannot control {which}"));
                }
                true
            }
            Err(error) => {
                let dir = group.dir.display();
                let which = group.hierarchy.controllers.join(", ");
                refused.get_or_insert_with(|| format!("cannot make {dir}: {error}"));
                missing.push(format!(
                    "cgroup {dir}: cannot be made ({error}): no {which} of its own"
                ));
                let _ = remove::remove(&group.dir);
                false
            }
        });
        match (&self.demanded, refused) {
            (Some(path), Some(reason)) => Err(SpecError::new("cgroup", path.display(), reason)),
            _ => Ok(missing),
        }
    }

    /// Sets the limits of the spec in groups that have been made; `drives` are the drives of the
    /// disk images.
    pub(crate) fn limit(&self, vm: &Vm, drives: &[Drive]) -> Result<(), SpecError> {
        if vm.cgroup == Some(Cgroup::Inherit) {
            return limits::check_without_groups(&vm.limits, geteuid().is_root());
        }
        for limits in &vm.limits {
            let drive = match limits.held {
                Held::Disk(index) if !limits.io.is_empty() => {
                    let disk = &vm.disks[index];
                    let drive = drives.get(index).cloned();
                    let error = |e: String| {
                        SpecError::new(
                            "limits.of",
                            &disk.id,
                            format!("{e}: reads and writes cannot be counted"),
                        )
                    };
                    drive.transpose().map_err(error)?
                }
                _ => None,
            };
            let user = limits::user(limits.held, vm.disks.len());
            let leaf = user.and_then(|user| self.leaves.get(user));
            for version in [Version::One, Version::Two] {
                for setting in limits::settings(limits, version, drive) {
                    self.set(version, leaf, &setting)?;
                }
            }
        }
        Ok(())
    }

    /// Writes a setting, if its controller is one of this version.
    fn set(
        &self,
        version: Version,
        leaf: Option<&Leaf>,
        setting: &limits::Setting,
    ) -> Result<(), SpecError> {
        let error = |reason| Err(SpecError::new(setting.field, &setting.value, reason));
        let controller = setting.controller;
        let holds = |group: &&Group| group.hierarchy.controllers.contains(&controller);
        let Some(group) = self.groups.iter().find(holds) else {
            let reason = format!(
                "there is no {controller} controller for us: `bulkhead doctor` tells which there are"
            );
            return error(reason);
        };
        if group.hierarchy.version != version {
            return Ok(());
        }
        let dir = match leaf {
            Some(leaf) => group.place_of(leaf),
            None => Ok(group.dir.clone()),
        };
        let file = match dir {
            Ok(dir) => dir.join(setting.file),
            Err(e) => return error(format!("cannot be set: no group can be made ({e})")),
        };
        // Never create the file: a missing one would be created in some other file system.
        let opened = fs::OpenOptions::new().write(true).open(&file);
        match opened.and_then(|mut file| file.write_all(setting.content.as_bytes())) {
            Ok(()) => Ok(()),
            Err(e) => error(format!("cannot be set: {} ({e})", file.display())),
        }
    }

    /// Removes groups of other VMs of which nothing else is left, beside those of this VM.
    pub(crate) fn sweep_forgotten_beside(&self) {
        let tops = self.groups.iter().filter_map(|group| group.dir.parent());
        tops.for_each(sweep_forgotten_in);
    }

    /// The supervisor's group, if clone3(2) can spawn into it.
    pub(crate) fn initial_cgroup(&self) -> Option<BorrowedFd<'_>> {
        let initial_cgroup = self
            .groups
            .iter()
            .find_map(|group| group.initial_cgroup.as_ref());
        initial_cgroup.map(AsFd::as_fd)
    }

    /// Whether this is the number of a process of the VM: 0 is the supervisor, then come the vmm
    /// and the backends.
    pub(crate) fn has(&self, user: u8) -> bool {
        usize::from(user) < self.leaves.len()
    }

    /// Moves a process into its groups.
    pub(crate) fn place(&self, user: u8, pid: i32) -> io::Result<()> {
        let Some(leaf) = self.leaves.get(usize::from(user)) else {
            return Ok(());
        };
        for group in &self.groups {
            if user == 0 && group.initial_cgroup.is_some() {
                continue;
            }
            fs::write(group.place_of(leaf)?.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for group in &self.groups {
            let _ = remove::remove(&group.dir);
        }
    }
}

impl Group {
    /// Makes the group; returns the controllers that it lacks.
    fn make(&mut self, leaves: &[Leaf]) -> io::Result<Vec<&'static str>> {
        // Another jailer may remove the empty top directory in between.
        let top = self.dir.parent().unwrap_or(&self.dir).to_path_buf();
        let mut attempts = 0;
        let unavailable = loop {
            mkdir(&top)?;
            let unavailable = self.enable_above(&top);
            match fs::create_dir(&self.dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && attempts < 10 => attempts += 1,
                made => break made.map(|()| unavailable)?,
            }
            sleep(Duration::from_millis(1));
        };
        let has = |controller| {
            self.hierarchy.controllers.contains(&controller) && !unavailable.contains(&controller)
        };
        self.counts_threads = has("pids");
        let threads: u64 = leaves.iter().filter_map(|leaf| leaf.threads_max).sum();
        if self.counts_threads {
            fs::write(self.dir.join("pids.max"), threads.to_string())?;
        }
        if self.has_leaves && self.hierarchy.version == Version::Two {
            for controller in ["cpu", "pids", "io"].into_iter().filter(|c| has(c)) {
                enable(&self.dir, controller)?;
            }
            let initial_cgroup = self.dir.join(SUPERVISOR);
            fs::create_dir(&initial_cgroup)?;
            self.initial_cgroup = File::open(initial_cgroup).ok();
        }
        Ok(unavailable)
    }

    /// The directory of a process's group; makes it if it is missing.
    fn place_of(&self, leaf: &Leaf) -> io::Result<PathBuf> {
        if !self.has_leaves {
            return Ok(self.dir.clone());
        }
        let dir = self.dir.join(&leaf.name);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(dir),
            made => made?,
        }
        // No limit of its own for the supervisor's group: the other processes start in it.
        if self.counts_threads
            && leaf.name != SUPERVISOR
            && let Some(most) = leaf.threads_max
        {
            fs::write(dir.join("pids.max"), most.to_string())?;
        }
        Ok(dir)
    }

    /// Enables the controllers for the VM's group; returns those it cannot enable.
    fn enable_above(&self, top: &Path) -> Vec<&'static str> {
        if self.hierarchy.version == Version::One {
            return Vec::new();
        }
        let parent = top.parent().unwrap_or(top);
        let controllers = self.hierarchy.controllers.iter().copied();
        controllers
            .filter(|c| enable(parent, c).is_err() || enable(top, c).is_err())
            .collect()
    }
}

fn mkdir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn enable(dir: &Path, controller: &str) -> io::Result<()> {
    fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))
}
