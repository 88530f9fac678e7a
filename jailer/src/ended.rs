// SPDX-License-Identifier: Apache-2.0
//! Keeps how VMs have ended, beside the state directories: the only files that outlive a VM. There
//! are at most [`ENDED_MAX`] of at most [`spec::state::ENDED_MAX_BYTES`], of this boot of the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use handover::outcome::{Outcome, say};
use host::clock::monotonic_ns;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use spec::state::{ENDED, ENDED_MAX, ENDED_MAX_BYTES};
use spec::{Ended, Reason, VmName};

/// Keeps how a VM has ended; `started_ns` is when its jailer started. The caller holds the
/// VM's name.
pub(crate) fn keep(base: &impl AsFd, name: &VmName, outcome: &Outcome, started_ns: u64) {
    let age_ns = monotonic_ns().saturating_sub(started_ns);
    let now_s = now_s();
    let ended = Ended {
        name: name.clone(),
        reason: outcome.reason,
        status: Some(outcome.status.number()),
        detail: outcome.lines.first().cloned().unwrap_or_default(),
        started_unix_s: Some(now_s.saturating_sub(age_ns / 1_000_000_000)),
        ended_unix_s: now_s,
        boot: boot(),
    };
    write(base, &ended);
}

/// Keeps that a VM's jailer was killed.
pub(crate) fn keep_lost(base: &impl AsFd, name: &VmName) {
    let ended = Ended {
        name: name.clone(),
        reason: Reason::JailerLost,
        status: None,
        detail: "its jailer was killed".into(),
        started_unix_s: None,
        ended_unix_s: now_s(),
        boot: boot(),
    };
    write(base, &ended);
}

/// Removes what is kept of an earlier VM of this name.
pub(crate) fn forget(base: &impl AsFd, name: &VmName) {
    if let Ok(dir) = open_dir(base) {
        let _ = unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn write(base: &impl AsFd, ended: &Ended) {
    let name = ended.name.as_str();
    let written = try_write(base, name, &ended.to_json());
    if let Err(error) = written {
        say(&format!("name {name:?}: how it ended is not kept: {error}"));
    }
}

fn try_write(base: &impl AsFd, name: &str, text: &[u8]) -> io::Result<()> {
    match mkdirat(base, ENDED, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let dir = open_dir(base)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    // A record that was cut short is none: readers ignore it, and the next one replaces it.
    let file = openat(&dir, name, flags | OFlag::O_CLOEXEC, mode)?;
    File::from(file).write_all(text)?;
    prune(&dir)
}

/// Opens the directory of all records, which must be ours alone.
fn open_dir(base: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(base, ENDED, flags, Mode::empty())?;
    let found = fstat(&dir)?;
    if found.st_uid != geteuid().as_raw() || found.st_mode & 0o077 != 0 {
        let text = format!("{ENDED} is not ours alone");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(dir)
}

/// Removes records of earlier boots, and the oldest of too many.
fn prune(dir: &OwnedFd) -> io::Result<()> {
    let boot = boot();
    let mut records = Vec::new();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(dir, ".", flags, Mode::empty())?;
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        // Another jailer may remove it meanwhile.
        let Ok(found) = fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_of_this_boot = read(dir, &name).is_some_and(|text| is_of(&text, &boot));
        let changed = (found.st_mtime, found.st_mtime_nsec);
        records.push((is_of_this_boot, changed, name));
    }
    records.sort();
    let excess = records.len().saturating_sub(ENDED_MAX);
    let stale = records.iter().filter(|(of_this_boot, ..)| !of_this_boot);
    for (_, _, name) in records.iter().take(excess.max(stale.count())) {
        let _ = unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
    Ok(())
}

/// Whether a record is of this boot. One that another jailer is just writing is taken for one.
fn is_of(text: &[u8], boot: &str) -> bool {
    text.is_empty() || Ended::from_json(text, boot).is_some()
}

fn read(dir: &OwnedFd, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).ok()?;
    let mut text = Vec::new();
    let limit = ENDED_MAX_BYTES as u64 + 1;
    File::from(file).take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

fn boot() -> String {
    host::clock::boot_id()
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::broker::Status;
    use std::fs;
    use std::path::Path;

    fn name(text: &str) -> VmName {
        text.parse().unwrap()
    }

    fn kept(base: &Path) -> Vec<String> {
        let dir = fs::read_dir(base.join(ENDED)).into_iter().flatten();
        let names = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn record(base: &Path, name: &str) -> Option<Ended> {
        let text = fs::read(base.join(ENDED).join(name)).ok()?;
        Ended::from_json(&text, &boot())
    }

    #[test]
    fn end_is_kept_replaced_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let base = File::open(dir.path()).unwrap();
        forget(&base, &name("a"));
        assert!(kept(dir.path()).is_empty());
        keep(&base, &name("a"), &Outcome::new(Status::Guest, ["why"]), 0);
        let ended = record(dir.path(), "a").unwrap();
        assert_eq!((ended.status, ended.reason), (Some(3), Reason::Crash));
        assert_eq!(ended.detail, "why");
        assert!(ended.started_unix_s.unwrap() <= ended.ended_unix_s);
        keep_lost(&base, &name("a"));
        assert_eq!(record(dir.path(), "a").unwrap().reason, Reason::JailerLost);
        keep_lost(&base, &name("b"));
        forget(&base, &name("a"));
        assert_eq!(kept(dir.path()), ["b"]);
    }

    #[test]
    fn oldest_of_too_many_go_and_so_do_those_of_an_earlier_boot() {
        let dir = tempfile::tempdir().unwrap();
        let base = File::open(dir.path()).unwrap();
        keep_lost(&base, &name("first"));
        let old = record(dir.path(), "first").unwrap();
        let old = Ended {
            boot: "earlier".into(),
            ..old
        };
        let at = |name: &str| dir.path().join(ENDED).join(name);
        fs::write(at("old"), old.to_json()).unwrap();
        fs::write(at("junk"), "junk").unwrap();
        for number in 0..ENDED_MAX - 1 {
            keep_lost(&base, &name(&format!("n{number}")));
            let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64 + 2);
            let file = File::open(at(&format!("n{number}"))).unwrap();
            file.set_modified(then).unwrap();
        }
        assert_eq!(kept(dir.path()).len(), ENDED_MAX);
        assert!(!at("old").exists() && !at("junk").exists());
        keep_lost(&base, &name("last"));
        assert_eq!(kept(dir.path()).len(), ENDED_MAX);
        assert!(!at("n0").exists() && at("n1").exists() && at("last").exists());
    }

    #[test]
    fn directory_that_others_can_reach_is_left_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let base = File::open(dir.path()).unwrap();
        let open = dir.path().join(ENDED);
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        keep_lost(&base, &name("a"));
        assert!(kept(dir.path()).is_empty());
    }
}
