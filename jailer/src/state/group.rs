// SPDX-License-Identifier: Apache-2.0
//! Opens a VM's sockets to a group: its members may pass through the state directory and connect to
//! the sockets in it. They can neither list the directory nor read anything else in it.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, chown, fchown};
use spec::SpecError;

use super::{StateDir, error};

impl StateDir {
    /// Admits a group. `is_ours` says that the directory around this one is the default one, whose
    /// mode the jailer may choose.
    pub(crate) fn open_to(&mut self, gid: u32, is_ours: bool) -> Result<(), SpecError> {
        let group = Gid::from_raw(gid);
        let refused = |errno: Errno| {
            let reason = match errno {
                Errno::EPERM => "is no group of ours: join it, or have root start the VM",
                other => other.desc(),
            };
            SpecError::new("api-gid", gid, reason)
        };
        fchown(self.dir.as_fd(), None, Some(group)).map_err(refused)?;
        fchmod(self.dir.as_fd(), Mode::S_IRWXU | Mode::S_IXGRP).map_err(refused)?;
        self.let_through(group, is_ours)?;
        self.group = Some(group);
        Ok(())
    }

    fn let_through(&self, group: Gid, is_ours: bool) -> Result<(), SpecError> {
        let base = self.path.parent().unwrap_or(&self.path);
        let failed = |e: Errno| error(base, e.desc());
        let found = fstat(&self.base).map_err(failed)?;
        let mode = Mode::from_bits_truncate(found.st_mode);
        let in_group = found.st_gid == group.as_raw();
        if mode.contains(Mode::S_IXOTH) || (in_group && mode.contains(Mode::S_IXGRP)) {
            return Ok(());
        }
        match is_ours {
            true => fchmod(&self.base, mode | Mode::S_IXOTH).map_err(failed),
            false => {
                let reason = format!("group {group} cannot pass through it: chmod o+x");
                Err(error(base, reason))
            }
        }
    }

    /// The group that was admitted.
    pub(crate) fn group(&self) -> Option<Gid> {
        self.group
    }

    /// Gives a socket to the group, if there is one; returns the mode for the socket.
    pub(super) fn share(&self, socket: &Path) -> Result<u32, Errno> {
        match self.group {
            None => Ok(0o600),
            Some(group) => chown(socket, None, Some(group)).map(|()| 0o660),
        }
    }
}
