// SPDX-License-Identifier: Apache-2.0
//! Opening what devices are made of: images, and the sockets of other programs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use launch::disk::{Access, DiskError};
use nix::errno::Errno;
use spec::{Disk, DiskEngine, NetKind, SpecError, VhostUser, Vm};

use super::nics::{self, OpenTap};
use super::passt;
use super::resources::{cause, open_binary};
use crate::host::Host;
use crate::supervisor::{Image, connect};

/// What was opened.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The program that serves disks, if there are any.
    pub(crate) blk: Option<OwnedFd>,
    /// The images of the disks.
    pub(crate) images: Vec<Image>,
    /// The program that serves network cards, if there are any with a tap.
    pub(crate) net: Option<OwnedFd>,
    /// The taps of the network cards.
    pub(crate) taps: Vec<OpenTap>,
    /// Streams to the backends of other programs, but for passt.
    pub(crate) streams: Vec<OwnedFd>,
}

impl Devices {
    /// Opens everything, or says all that is wrong.
    pub(crate) fn open(vm: &Vm, host: &Host) -> Result<Self, Vec<SpecError>> {
        let mut errors = Vec::new();
        let blk = match vm.disks.is_empty() {
            true => None,
            false => open_binary("blk-backend", &host.blk)
                .map_err(|e| errors.push(e))
                .ok(),
        };
        let mut images = Vec::with_capacity(vm.disks.len());
        for disk in &vm.disks {
            match open_image(disk) {
                Ok(image) => images.push(image),
                Err(error) => errors.push(error),
            }
        }
        let mut streams = Vec::with_capacity(vm.vhost_user.len());
        for device in &vm.vhost_user {
            match open_stream(device) {
                Ok(stream) => streams.push(stream),
                Err(error) => errors.push(error),
            }
        }
        let taps = nics::open_all(vm, &mut errors);
        let net = match vm
            .nets
            .iter()
            .all(|net| matches!(net.kind, NetKind::User(_)))
        {
            true => None,
            false => open_binary("net-backend", &host.net)
                .map_err(|e| errors.push(e))
                .ok(),
        };
        passt::check(vm, host.passt.as_deref(), &mut errors);
        match errors.is_empty() {
            true => Ok(Self {
                blk,
                images,
                net,
                taps,
                streams,
            }),
            false => Err(errors),
        }
    }
}

fn open_image(disk: &Disk) -> Result<Image, SpecError> {
    let access = Access {
        readonly: disk.readonly,
        direct: disk.direct,
    };
    let error = |reason: String| SpecError::new("disk", disk.path.display(), reason);
    let (file, geometry) = launch::disk::open(&disk.path, access)
        .map_err(|e| error(remedy(&e, &disk.path, access)))?;
    if disk.engine == DiskEngine::Uring {
        // One is made and thrown away: whether rings can be had must be known before anything runs.
        launch::ring::create(disk.queue_size, file.as_fd()).map_err(|e| {
            let reason = format!(
                "{}: engine=threads works without io_uring",
                launch::log::chain(&e)
            );
            SpecError::new("disk.engine", disk.engine, reason)
        })?;
    }
    Ok(Image { file, geometry })
}

fn remedy(error: &DiskError, path: &Path, access: Access) -> String {
    match error {
        DiskError::Open(source) => {
            let denied = [libc::EACCES, libc::EPERM, libc::EROFS].map(Some);
            let may_read = || std::fs::File::open(path).is_ok();
            match !access.readonly && denied.contains(&source.raw_os_error()) && may_read() {
                true => format!("{}: it can only be read: add readonly", cause(source)),
                false => cause(source),
            }
        }
        DiskError::Direct => format!("{error}: leave direct out"),
        DiskError::Examine(source) => format!("{error}: {}", cause(source)),
        _ => error.to_string(),
    }
}

fn open_stream(device: &VhostUser) -> Result<OwnedFd, SpecError> {
    connect(&device.socket).map_err(|errno| {
        let reason = match errno {
            Errno::ECONNREFUSED => "nobody listens there: start the backend first".into(),
            Errno::EAGAIN => "its backend does not accept connections".into(),
            Errno::ENAMETOOLONG => "is too long for a socket".into(),
            errno => errno.desc().to_string(),
        };
        SpecError::new("vhost-user", device.socket.display(), reason)
    })
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
