// SPDX-License-Identifier: Apache-2.0
//! Opening what devices are made of: images, and the sockets of other programs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use host::disk::{Access, DiskError};
use host::socket::connect;
use nix::errno::Errno;
use spec::{ByteSize, Disk, DiskEngine, NetKind, SpecError, VhostUser, Vm};

use super::cgroups::drive_of;
use super::image;
use super::opening::{Fault, Found, ImageReport, OpenImage};
use super::passt;
use super::resources::{cause, open_binary};
use super::tap_setup::{self, OpenTap};
use crate::host::Host;

/// What was opened.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The program that serves disks, if there are any.
    pub(crate) blk: Option<OwnedFd>,
    /// The images of the disks.
    pub(crate) images: Vec<OpenImage>,
    /// The program that serves network cards, if there are any with a tap.
    pub(crate) net: Option<OwnedFd>,
    /// The taps of the network cards.
    pub(crate) taps: Vec<OpenTap>,
    /// Streams to the backends of other programs, but for passt.
    pub(crate) streams: Vec<OwnedFd>,
}

impl Devices {
    /// Opens all that no storage can keep us waiting for; what is wrong is added to `errors`.
    pub(super) fn open(vm: &Vm, host: &Host, errors: &mut Vec<SpecError>) -> Self {
        let blk = match vm.disks.is_empty() {
            true => None,
            false => open_binary("blk-backend", &host.blk)
                .map_err(|e| errors.push(e))
                .ok(),
        };
        let taps = tap_setup::open_all(vm, errors);
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
        passt::check(vm, host.passt.as_deref(), errors);
        Self {
            blk,
            images: Vec::new(),
            net,
            taps,
            streams: Vec::new(),
        }
    }

    /// Adds what a helper has opened.
    pub(super) fn add(&mut self, found: Found) {
        (self.images, self.streams) = (found.images, found.streams);
    }
}

/// Whether one of the disks before it has the same image, and one of the two is written to.
pub(super) fn shared_with<'a>(
    mut before: impl Iterator<Item = &'a Disk>,
    disk: &Disk,
) -> Option<Fault> {
    let identity = |disk: &Disk| {
        let found = std::fs::metadata(&disk.path).ok()?;
        Some(match found.file_type().is_block_device() {
            true => (true, found.rdev(), 0),
            false => (false, found.dev(), found.ino()),
        })
    };
    let image = identity(disk)?;
    let other = before
        .find(|other| !(other.readonly && disk.readonly) && identity(other) == Some(image))?;
    Some(Fault::of(format!(
        "is the image of disk {} of this VM, too: give each an image of its own, or both readonly",
        other.id
    )))
}

/// Opens an image and locks it, and opens it once more for the first backend. Runs in a helper.
pub(super) fn open_image(disk: &Disk, mark: i64) -> Result<(File, File, ImageReport), Fault> {
    let access = Access {
        readonly: disk.readonly,
        direct: disk.direct,
        block_bytes: disk.block_size,
    };
    let fault = |e: DiskError| Fault::of(remedy(&e, disk.direct));
    let (file, geometry) = host::disk::open(&disk.path, access).map_err(fault)?;
    if let (false, Some(reason)) = (
        disk.readonly,
        super::starter::is_too_large(geometry.capacity_bytes),
    ) {
        let size = ByteSize(geometry.capacity_bytes);
        return Err(Fault::of(format!("its size, {size}, {reason}")));
    }
    if disk.engine == DiskEngine::Uring {
        // One is made and thrown away: whether rings can be had must be known before anything runs.
        host::ring::create(disk.queue_size, file.as_fd()).map_err(|e| Fault {
            engine: true,
            reason: format!(
                "{}: engine=threads works without io_uring",
                host::log::chain(&e)
            ),
        })?;
    }
    let first = image::reopen(&file, access, mark).map_err(fault)?;
    let drive = drive_of(&file).map_err(|e| e.to_string());
    let report = ImageReport {
        geometry,
        mark,
        drive,
    };
    Ok((file, first, report))
}

fn remedy(error: &DiskError, direct: bool) -> String {
    match error {
        DiskError::Open(source) => cause(source),
        DiskError::ReadOnly(source) => format!("{}: {error}", cause(source)),
        DiskError::Direct => format!("{error}: leave direct out"),
        DiskError::PartialBlock { bytes, block_bytes } => {
            let whole = bytes.next_multiple_of(u64::from(*block_bytes));
            let instead = if direct { "leave direct out, or " } else { "" };
            format!("{error}: {instead}make it longer (truncate -s {whole})")
        }
        DiskError::Examine(source) => format!("{error}: {}", cause(source)),
        _ => error.to_string(),
    }
}

/// Connects to another program's backend. Runs in a helper: the path may lead through a file system
/// that hangs.
pub(super) fn open_stream(device: &VhostUser) -> Result<OwnedFd, String> {
    connect(&device.socket).map_err(|errno| match errno {
        Errno::ECONNREFUSED => "nobody listens there: start the backend first".into(),
        Errno::EAGAIN => "its backend does not accept connections".into(),
        Errno::ENAMETOOLONG => "is too long for a socket".into(),
        errno => errno.desc().to_string(),
    })
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
