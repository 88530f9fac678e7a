// SPDX-License-Identifier: Apache-2.0
//! Removing the groups of a VM, by whoever made them or by whoever sweeps.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::TOP;

/// How long the last process of a dead VM may take to go.
const PATIENCE: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(1);

/// Removes a VM's group and those in it, and the one that all VMs are below if this was the last.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    for _ in 0..PATIENCE {
        match attempt(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => sleep(PAUSE),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
            Ok(()) => {
                // Others are below it: then it stays.
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

/// Removes the groups that a dead VM has left, of which `dirs` are the directories, one on each
/// line. What is in them can only be the VM's, and is ended.
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

/// Ends every process in a group and those in it.
fn end(dir: &Path) {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    let inner = inner.map(|entry| entry.path().join("cgroup.procs"));
    for file in inner.chain([dir.join("cgroup.procs")]) {
        let processes = fs::read_to_string(file).unwrap_or_default();
        for pid in processes.lines().filter_map(|pid| pid.parse().ok()) {
            // It may have gone since.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
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
}
