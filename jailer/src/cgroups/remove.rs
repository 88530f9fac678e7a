// SPDX-License-Identifier: Apache-2.0
//! Removes the groups of a VM: after its end, or in a later sweep.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::TOP;

/// How often to try while the kernel still removes the last process of a dead VM.
const PATIENCE: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(1);

/// Removes a VM's group with its child groups, and [`TOP`] if that was the last VM.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    for _ in 0..PATIENCE {
        match attempt(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => sleep(PAUSE),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
            Ok(()) => {
                // Fails while groups of other VMs are below it.
                let _ = dir.parent().map(fs::remove_dir);
                return Ok(());
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

fn attempt(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Removes the groups that a dead VM has left; `dirs` lists their directories, one on each line.
/// Processes in them can only be the VM's, and are killed.
pub(crate) fn sweep(dirs: &str) -> io::Result<()> {
    let is_ours = |dir: &&Path| {
        let top = dir.parent().and_then(Path::file_name);
        let steps = dir.components();
        let straight = steps.clone().all(|step| step.as_os_str() != "..");
        dir.is_absolute() && straight && top.is_some_and(|top| top == TOP)
    };
    for dir in dirs.lines().map(Path::new).filter(is_ours) {
        end(dir);
        remove(dir)?;
    }
    Ok(())
}

/// Removes groups whose VM has no state directory any more, so that no sweep of a name finds them.
/// A group's name ends in its jailer's process id. A group that holds a process is in use although
/// its jailer is dead, and stays.
pub(super) fn forgotten(top: &Path, is_alive: impl Fn(Pid) -> bool) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let jailer = name.to_str().and_then(|name| name.rsplit_once('-'));
        let jailer = jailer.and_then(|(_, pid)| pid.parse().ok());
        let is_dead = jailer.is_some_and(|pid| !is_alive(Pid::from_raw(pid)));
        if is_dead && processes(&entry.path()).is_empty() {
            // Fails for a group of another user.
            let _ = attempt(&entry.path());
        }
    }
    // Fails while other groups are below it.
    let _ = fs::remove_dir(top);
}

/// Kills every process in a group and its child groups.
fn end(dir: &Path) {
    for pid in processes(dir) {
        // The process may have exited since.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// The processes in a group and its child groups. The kernel shows 0 for a process that this
/// process cannot see; kill(2) would take 0 for our own process group, so it is left out.
fn processes(dir: &Path) -> Vec<Pid> {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = inner.map(|entry| entry.path()).chain([dir.to_owned()]);
    let lists = dirs.map(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        let pids = list.lines().filter_map(|pid| pid.parse().ok());
        let pids = pids.filter(|pid| *pid > 0);
        pids.map(Pid::from_raw).collect::<Vec<_>>()
    });
    pids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_touches_nothing_but_groups_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join(TOP).join("vm-7");
        let others = dir.path().join("other").join("vm-7");
        for dir in [&ours, &others] {
            fs::create_dir_all(dir.join("vmm")).unwrap();
        }
        let sneaky = format!("{}/{TOP}/../other/vm-7", dir.path().display());
        let text = format!("{}\n{}\n{sneaky}\n", ours.display(), others.display());
        sweep(&text).unwrap();
        assert!(!ours.exists() && others.exists());
        assert!(!dir.path().join(TOP).exists());
    }

    #[test]
    fn processes_that_cannot_be_seen_from_here_are_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.procs"), "0\n12\n0\n").unwrap();
        assert_eq!(processes(dir.path()), [Pid::from_raw(12)]);
    }

    #[test]
    fn group_is_forgotten_only_if_its_jailer_is_dead_and_nobody_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let group = dir.path().join(name);
            fs::create_dir_all(group.join("vmm")).unwrap();
            group
        };
        let (forgotten, living) = (make("vm-7"), make("a-vm-8"));
        let (inhabited, foreign) = (make("vm-9"), make("other"));
        fs::write(inhabited.join("vmm/cgroup.procs"), "1\n").unwrap();
        super::forgotten(dir.path(), |pid| pid.as_raw() == 8);
        assert!(!forgotten.exists());
        assert!(living.exists() && inhabited.join("vmm").exists() && foreign.exists());
    }
}
