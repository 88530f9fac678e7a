// SPDX-License-Identifier: Apache-2.0
//! Notices when the client removes what it has made for us: its socket or its named pipe. libvirt before
//! 11.8 means to kill the process of a VM that it destroys, and does not; it removes both files in any
//! case. If it crashes or is restarted, they stay, and so does the VM.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Files that must stay.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    /// Their paths and, of each, the device and the number of its inode, if it was there.
    files: Vec<(PathBuf, Option<(u64, u64)>)>,
}

/// What is at a path, if anything.
fn inode(path: &Path) -> Option<(u64, u64)> {
    let found = path.symlink_metadata().ok()?;
    Some((found.dev(), found.ino()))
}

impl Watch {
    /// Watches files that exist.
    ///
    /// # Errors
    /// The kernel's, when it has no watches left.
    pub fn new(paths: Vec<PathBuf>) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for path in &paths {
            // A hard link less, and every other way to be gone.
            let flags = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
            match inotify.add_watch(path, flags) {
                // Gone already: `is_let_go` says so.
                Ok(_) | Err(nix::errno::Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        let files = paths.into_iter().map(|path| {
            let found = inode(&path);
            (path, found)
        });
        let files = files.collect();
        Ok(Self { inotify, files })
    }

    /// Whether one of them is gone, or another one is in its place: that of the next VM of the name.
    pub fn is_let_go(&self) -> bool {
        while self
            .inotify
            .read_events()
            .is_ok_and(|events| !events.is_empty())
        {}
        let mut files = self.files.iter();
        files.any(|(path, there)| there.is_none() || inode(path) != *there)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    fn is_awake(watch: &Watch) -> bool {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 0_u8).unwrap() > 0
    }

    #[test]
    fn file_that_is_removed_wakes_and_one_that_changes_does_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let watch = Watch::new(vec![path.clone()]).unwrap();
        assert!(!is_awake(&watch) && !watch.is_let_go());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        assert!(is_awake(&watch) && !watch.is_let_go());
        fs::remove_file(&path).unwrap();
        let _next = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(is_awake(&watch) && watch.is_let_go());
        drop(socket);
    }

    #[test]
    fn file_that_was_never_there_is_gone() {
        assert!(Watch::new(vec!["/nonexistent".into()]).unwrap().is_let_go());
    }
}
