// SPDX-License-Identifier: Apache-2.0
//! The state directory of a VM: it reserves the VM's name and holds its sockets.
//!
//! The lock is an flock(2) on the directory itself. A jailer that holds it, and finds that the path
//! still leads to the locked directory, has the name. The kernel releases the lock with the
//! process, however that ends.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use handover::host_resources::Log;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, UnlinkatFlags, geteuid, unlinkat};
use spec::state::{CGROUPS, CONSOLE_PATH, FILES, LOG, LOG_OLD, SOCKET_PATH_MAX_BYTES, SPEC};
use spec::{SpecError, VmName, VmSpec};

use super::cgroups;
use super::console_socket;
use super::{private_dir, tap_setup};

mod group;

/// How often a directory may vanish while it is being taken before the jailer gives up.
const ATTEMPTS: usize = 100;

/// A file of our own state directory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("state-dir {path:?}: cannot make {file}")]
pub(crate) struct StateError {
    path: String,
    file: &'static str,
    #[source]
    source: io::Error,
}

/// A state directory that this jailer holds; removed when dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    name: String,
    base: File,
    dir: Flock<File>,
    swept: bool,
    /// The group that may use the sockets, besides us and root.
    group: Option<Gid>,
}

/// The directory that holds the state directories; made if it is missing.
pub(crate) fn base_dir(chosen: Option<&Path>) -> Result<PathBuf, SpecError> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = spec::state::base(chosen, geteuid().is_root(), runtime_dir.as_deref())?;
    let made = private_dir::make(&base).and_then(|()| fs::canonicalize(&base));
    made.map_err(|e| SpecError::new("state-dir", base.display(), e))
}

enum Attempt {
    Ours(Box<StateDir>),
    Vanished,
}

impl StateDir {
    /// Makes the directory of a VM, or takes over that of a dead VM.
    pub(crate) fn acquire(base: &Path, name: &VmName) -> Result<Self, SpecError> {
        let path = base.join(name.as_str());
        check_length(&path)?;
        let base = open_dir(base)?;
        for _ in 0..ATTEMPTS {
            match Self::attempt(&base, &path, name)? {
                Attempt::Ours(state) => return Ok(*state),
                Attempt::Vanished => {}
            }
        }
        Err(error(
            &path,
            "is made and removed again and again by others",
        ))
    }

    fn attempt(base: &File, path: &Path, name: &VmName) -> Result<Attempt, SpecError> {
        let failed = |e: Errno| error(path, e.desc());
        match mkdirat(base, name.as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(failed(e)),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = match openat(base, name.as_str(), flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(Errno::ENOENT) => return Ok(Attempt::Vanished),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(error(path, "is not a directory")),
            Err(e) => return Err(failed(e)),
        };
        let found = fstat(&dir).map_err(failed)?;
        if found.st_uid != geteuid().as_raw() {
            let reason = format!("belongs to user {}, not to us", found.st_uid);
            return Err(error(path, reason));
        }
        // `--api-gid` may have given a group search permission.
        if found.st_mode & 0o067 != 0 {
            return Err(error(path, "is open to other users: not a state directory"));
        }
        let dir = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(dir) => dir,
            Err((_, Errno::EWOULDBLOCK)) => {
                let reason = format!("is in use by a running VM ({})", path.display());
                return Err(SpecError::new("name", name, reason));
            }
            Err((_, e)) => return Err(failed(e)),
        };
        match fstatat(base, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino) => {}
            Ok(_) | Err(Errno::ENOENT) => return Ok(Attempt::Vanished),
            Err(e) => return Err(failed(e)),
        }
        let swept = sweep(&dir, path)?;
        let base = base.try_clone().map_err(|e| error(path, e))?;
        Ok(Attempt::Ours(Box::new(Self {
            path: path.to_path_buf(),
            name: name.to_string(),
            base,
            dir,
            swept,
            group: None,
        })))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that it is in.
    pub(crate) fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// Whether files of a dead VM were removed from it.
    pub(crate) fn swept(&self) -> bool {
        self.swept
    }

    /// The log of what is to be undone for this VM.
    pub(crate) fn undo_log(&self) -> Result<tap_setup::UndoLog, SpecError> {
        open_dir(&self.path).map(tap_setup::UndoLog::new)
    }

    /// Writes the spec as it is run.
    pub(crate) fn write_spec(&self, spec: &VmSpec) -> Result<(), StateError> {
        let failed = self.failed(SPEC);
        let text = serde_json::to_vec_pretty(spec).map_err(|e| failed(e.into()))?;
        let mut file = self.create(SPEC)?;
        io::Write::write_all(&mut file, &text).map_err(failed)
    }

    /// Records the paths of the VM's control groups, before they are made.
    pub(crate) fn write_cgroups<'a>(
        &self,
        dirs: impl Iterator<Item = &'a Path>,
    ) -> Result<(), StateError> {
        let lines: String = dirs.map(|dir| format!("{}\n", dir.display())).collect();
        let mut file = self.create(CGROUPS)?;
        io::Write::write_all(&mut file, lines.as_bytes()).map_err(self.failed(CGROUPS))
    }

    /// A record of where the console's socket is, empty yet.
    pub(crate) fn console_record(&self) -> Result<File, StateError> {
        self.create(CONSOLE_PATH)
    }

    /// Creates the log and opens it twice, for reading and for appending; and the file that it moves to.
    pub(crate) fn open_log(&self) -> Result<Log, StateError> {
        let writer = self.create(LOG)?;
        let reader = File::open(self.path.join(LOG)).map_err(self.failed(LOG))?;
        let old = self.create(LOG_OLD)?;
        Ok(Log {
            reader,
            writer,
            old,
        })
    }

    fn create(&self, file: &'static str) -> Result<File, StateError> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        options
            .open(self.path.join(file))
            .map_err(self.failed(file))
    }

    /// Listens on a socket that only we, root and the admitted group can reach.
    pub(crate) fn listen(&self, file: &'static str) -> Result<UnixListener, StateError> {
        let path = self.path.join(file);
        let listen = || {
            let listener = UnixListener::bind(&path)?;
            let mode = self.share(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        listen().map_err(self.failed(file))
    }

    fn failed(&self, file: &'static str) -> impl Fn(io::Error) -> StateError {
        let path = self.path.display().to_string();
        move |source| StateError {
            path: path.clone(),
            file,
            source,
        }
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        for file in FILES {
            let _ = unlinkat(self.dir.as_fd(), file, UnlinkatFlags::NoRemoveDir);
        }
        let _ = unlinkat(&self.base, self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

fn error(path: &Path, reason: impl std::fmt::Display) -> SpecError {
    SpecError::new("state-dir", path.display(), reason)
}

/// Checks that clients can connect: a socket's path must be short.
fn check_length(path: &Path) -> Result<(), SpecError> {
    let longest = FILES.iter().map(|file| file.len()).max().unwrap_or(0);
    let len = path.as_os_str().len() + 1 + longest;
    if len > SOCKET_PATH_MAX_BYTES {
        let reason = format!(
            "is too long: its sockets' paths would have {len} bytes, \
             at most {SOCKET_PATH_MAX_BYTES} are possible"
        );
        return Err(error(path, reason));
    }
    Ok(())
}

fn open_dir(path: &Path) -> Result<File, SpecError> {
    let mut options = OpenOptions::new();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    options.read(true).custom_flags(flags.bits());
    options.open(path).map_err(|e| error(path, e))
}

/// Removes what a dead VM left; returns whether there was anything. Refuses, and does not touch, a
/// directory that holds anything else.
fn sweep(dir: &Flock<File>, path: &Path) -> Result<bool, SpecError> {
    let failed = |e: Errno| error(path, e.desc());
    let mut remains = Vec::new();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(dir.as_fd(), ".", flags, Mode::empty()).map_err(failed)?;
    for entry in listing.iter() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            "." | ".." => {}
            _ if FILES.contains(&name.as_str()) => remains.push(name),
            _ => {
                return Err(error(
                    path,
                    format!("holds {name:?}: not a state directory"),
                ));
            }
        }
    }
    if remains.iter().any(|name| name == CGROUPS) {
        let dirs = fs::read_to_string(path.join(CGROUPS)).unwrap_or_default();
        cgroups::sweep(&dirs).map_err(|e| error(path, format!("its control groups: {e}")))?;
    }
    if let Ok(record) = fs::read(path.join(CONSOLE_PATH)) {
        console_socket::sweep(&record);
    }
    tap_setup::undo(dir.as_fd());
    for name in &remains {
        unlinkat(dir.as_fd(), name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(failed)?;
    }
    Ok(!remains.is_empty())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
