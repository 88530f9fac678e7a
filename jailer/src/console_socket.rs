// SPDX-License-Identifier: Apache-2.0
//! The socket of `console: socket=F`, at a path that the user chose. It is outside the state
//! directory, so its path is recorded there before it is made: the jailer removes the socket when
//! the VM has ended, or the next command does if the jailer was killed.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{Gid, UnlinkatFlags, fchownat, geteuid, unlinkat};
use serde::Serialize;
use spec::state::CONSOLE_PATH;
use spec::{Console, SpecError, check_socket_path};

use crate::open::cause;

/// A socket that this jailer made; removed when dropped, unless another file has its place.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    place: Place,
    /// Device and inode.
    id: (u64, u64),
}

/// A name in a directory that is held open: a user who may write to a directory on the way to it
/// cannot lead us to another one.
#[derive(Debug)]
struct Place {
    dir: OwnedFd,
    name: OsString,
}

/// Checks the place before anything is made: the directory is there, and nothing is in the way.
pub(crate) fn check(path: &Path) -> Result<(), SpecError> {
    let path = absolute(path)?;
    let dir = path.parent().unwrap_or(&path);
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return Err(refused(
                &path,
                &format!("{} is not a directory", dir.display()),
            ));
        }
        Ok(_) => {}
        Err(e) => {
            let reason = match e.kind() {
                ErrorKind::NotFound => "does not exist: make it first".into(),
                _ => cause(&e),
            };
            return Err(refused(
                &path,
                &format!("the directory {} {reason}", dir.display()),
            ));
        }
    }
    match fs::symlink_metadata(&path) {
        Ok(_) => Err(taken(&path)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(refused(&path, &cause(&e))),
    }
}

/// Listens at `path`, which is absolute. Only we, root and `group` can connect. What a sweep needs
/// goes to `record`: the path before the socket is made, and then which file it is.
pub(crate) fn listen(
    path: &Path,
    group: Option<Gid>,
    mut record: impl Write,
) -> Result<(UnixListener, ConsoleSocket), SpecError> {
    let failed = |e: Errno| match e {
        Errno::EADDRINUSE => taken(path),
        _ => refused(path, &cause(&e.into())),
    };
    let unrecorded = |e: io::Error| SpecError::new("state-dir", CONSOLE_PATH, cause(&e));
    let place = Place::of(path).map_err(failed)?;
    write_line(&mut record, &path).map_err(unrecorded)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    // bind(2) gives the file the mode of the socket: at no time may another user connect.
    fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    bind(listener.as_raw_fd(), &address).map_err(failed)?;
    let made = place.open().map_err(failed)?;
    let found = fstat(&made).map_err(failed)?;
    if !is_our_socket(&found) {
        return Err(taken(path));
    }
    let socket = ConsoleSocket {
        place,
        id: (found.st_dev, found.st_ino),
    };
    write_line(&mut record, &socket.id).map_err(unrecorded)?;
    if let Some(group) = group {
        fchownat(&made, "", None, Some(group), AtFlags::AT_EMPTY_PATH).map_err(failed)?;
        // Not by its path, where another file may be by now.
        let itself = format!("/proc/self/fd/{}", made.as_raw_fd());
        let mode = Permissions::from_mode(0o660);
        fs::set_permissions(itself, mode).map_err(|e| refused(path, &cause(&e)))?;
    }
    nix::sys::socket::listen(&listener, Backlog::MAXALLOWABLE).map_err(failed)?;
    Ok((listener.into(), socket))
}

impl Place {
    fn of(path: &Path) -> nix::Result<Self> {
        let dir = path.parent().ok_or(Errno::EISDIR)?;
        let name = path.file_name().ok_or(Errno::EISDIR)?.to_owned();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(dir, flags, Mode::empty())?;
        Ok(Self { dir, name })
    }

    fn open(&self) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.dir, self.name.as_os_str(), flags, Mode::empty())
    }

    fn look(&self) -> nix::Result<FileStat> {
        fstatat(
            &self.dir,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }

    fn remove(&self) {
        let _ = unlinkat(&self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if self
            .place
            .look()
            .is_ok_and(|found| self.id == (found.st_dev, found.st_ino))
        {
            self.place.remove();
        }
    }
}

/// Removes the socket that a dead jailer recorded. What is there now may be another program's: it
/// must be the recorded file or, if the jailer did not get that far, a socket of ours on which
/// no process listens.
pub(crate) fn sweep(record: &[u8]) {
    let mut lines = record.split(|&byte| byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let Ok(path) = serde_json::from_slice::<PathBuf>(next()) else {
        return;
    };
    let id = serde_json::from_slice::<(u64, u64)>(next()).ok();
    let Ok(place) = Place::of(&path) else {
        return;
    };
    let Some(found) = place.look().ok().filter(is_our_socket) else {
        return;
    };
    let is_it = match id {
        Some(id) => id == (found.st_dev, found.st_ino),
        // Without waiting for one that listens and does not accept.
        None => host::socket::connect(&path).err() == Some(Errno::ECONNREFUSED),
    };
    if is_it {
        place.remove();
    }
}

fn write_line(record: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(value)?;
    writeln!(record, "{line}")
}

fn is_our_socket(found: &FileStat) -> bool {
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    kind == SFlag::S_IFSOCK && found.st_uid == geteuid().as_raw()
}

/// The path from the root of the file system, as clients in other directories need it.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, SpecError> {
    let path = std::path::absolute(path).map_err(|e| refused(path, &cause(&e)))?;
    check_socket_path(&path)?;
    Ok(path)
}

fn refused(path: &Path, reason: &str) -> SpecError {
    SpecError::new("console", Console::SocketAt(path.into()), reason)
}

fn taken(path: &Path) -> SpecError {
    refused(
        path,
        "the path is taken: remove what is there, or choose another path",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDir;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    fn listen_alone(path: &Path) -> Result<(UnixListener, ConsoleSocket), SpecError> {
        listen(path, None, io::sink())
    }

    #[test]
    fn socket_is_for_us_alone_and_gone_when_dropped() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("c.sock");
        check(&path).unwrap();
        let (_listener, socket) = listen_alone(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(host::socket::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn socket_is_for_the_group_that_is_admitted() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("c.sock");
        let group = nix::unistd::getegid();
        let (_listener, _socket) = listen(&path, Some(group), io::sink()).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o660);
        assert_eq!(found.gid(), group.as_raw());
    }

    #[test]
    fn file_that_has_taken_the_sockets_place_is_kept() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("c.sock");
        let (_listener, socket) = listen_alone(&path).unwrap();
        fs::rename(&path, base.path().join("moved")).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn place_that_is_no_place_is_refused_with_the_remedy() {
        let base = tempfile::tempdir().unwrap();
        let at = |path: &str| base.path().join(path);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("/nonexistent", at("link")).unwrap();
        for (path, reason) in [
            (at("file"), "is taken"),
            (at("link"), "is taken"),
            (at("no/c.sock"), "does not exist: make it first"),
            (at("file/c.sock"), "is not a directory"),
            (at(&"x".repeat(107)), "at most 107"),
        ] {
            let error = check(&path).unwrap_err();
            assert_eq!(error.field, "console");
            assert!(error.reason.contains(reason), "{error}");
        }
        let error = listen_alone(&at("file")).unwrap_err();
        assert!(error.reason.contains("is taken"), "{error}");
        assert!(at("file").exists());
    }

    #[test]
    fn sweep_removes_a_dead_socket_and_leaves_a_live_one_and_a_file() {
        let base = tempfile::tempdir().unwrap();
        let at = |path: &str| base.path().join(path);
        let _live = UnixListener::bind(at("live")).unwrap();
        drop(UnixListener::bind(at("dead")).unwrap());
        fs::write(at("file"), "").unwrap();
        for path in ["live", "dead", "file", "none"] {
            let mut record = Vec::new();
            write_line(&mut record, &at(path)).unwrap();
            sweep(&record);
        }
        assert!(at("live").exists() && at("file").exists());
        assert!(!at("dead").exists());
    }

    #[test]
    fn sweep_does_not_wait_for_a_listener_that_accepts_no_client() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("full");
        let listener = host::socket::stream_socket(SockFlag::empty()).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let clients = (0..8).map(|_| host::socket::connect(&path));
        let clients: Vec<_> = clients.filter_map(Result::ok).collect();
        assert!(clients.len() < 8, "there is room for all");
        let mut record = Vec::new();
        write_line(&mut record, &path).unwrap();
        sweep(&record);
        assert!(path.exists());
    }

    #[test]
    fn state_directory_of_a_dead_vm_leads_to_its_socket() {
        let base = tempfile::tempdir().unwrap();
        let (dir, path) = (base.path().join("a"), base.path().join("c.sock"));
        fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        let mut record = Vec::new();
        // The supervisor may still be about to end.
        let (_listener, socket) = listen(&path, None, &mut record).unwrap();
        std::mem::forget(socket);
        fs::write(dir.join(CONSOLE_PATH), record).unwrap();
        let swept = StateDir::acquire(base.path(), &"a".parse().unwrap()).unwrap();
        assert!(swept.swept());
        assert!(!path.exists());
    }

    #[test]
    fn record_of_another_file_or_of_nothing_sweeps_nothing() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("c.sock");
        drop(UnixListener::bind(&path).unwrap());
        let mut record = Vec::new();
        write_line(&mut record, &path).unwrap();
        write_line(&mut record, &(1, 1)).unwrap();
        for record in [&record[..], b"", b"\n", b"\"\"\n", b"\"/\"\n", b"{\xff"] {
            sweep(record);
        }
        assert!(path.exists());
    }
}
