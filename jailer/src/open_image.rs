// SPDX-License-Identifier: Apache-2.0
//! Opens what may be on storage that does not answer: the image of a disk, and the socket of an
//! external backend. Runs in a helper.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use host::disk::{Access, DiskError};
use host::socket::connect;
use ipc::record::Geometry;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use spec::{ByteSize, Disk, DiskEngine, VhostUser};

use crate::cgroups::{Drive, drive_of};
use crate::image;
use crate::open::cause;
use crate::starter;

/// What the helper found out about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageReport {
    /// Size and block size as the guest sees them.
    pub(crate) geometry: Geometry,
    /// The byte that the first backend's opening has locked as its mark.
    pub(crate) mark: i64,
    /// The number of the image's drive, or why it has none.
    pub(crate) drive: Drive,
}

/// Why something cannot be opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Whether the fault is about `disk.engine` and not about the image.
    pub(crate) engine: bool,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn of(reason: String) -> Self {
        Self {
            engine: false,
            reason,
        }
    }
}

/// Whether an earlier disk has the same image, and one of the two writes to it.
pub(crate) fn shared_with<'a>(
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

/// Opens and locks an image, and opens it once more for the first backend. Runs in a helper.
pub(crate) fn open_image(disk: &Disk, mark: i64) -> Result<(File, File, ImageReport), Fault> {
    let access = Access {
        readonly: disk.readonly,
        direct: disk.direct,
        block_bytes: disk.block_size,
    };
    let fault = |e: DiskError| Fault::of(remedy(&e, disk.direct));
    let (file, geometry) = host::disk::open(&disk.path, access).map_err(fault)?;
    if let (false, Some(reason)) = (
        disk.readonly,
        starter::is_too_large(geometry.capacity_bytes),
    ) {
        let size = ByteSize(geometry.capacity_bytes);
        return Err(Fault::of(format!("its size, {size}, {reason}")));
    }
    if disk.engine == DiskEngine::Uring {
        // Make a ring and drop it: whether io_uring works must be known before anything runs.
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

/// Connects to an external backend. Runs in a helper: the path may lead through a file system that
/// hangs.
pub(crate) fn open_stream(device: &VhostUser) -> Result<OwnedFd, String> {
    connect(&device.socket).map_err(|errno| match errno {
        Errno::ECONNREFUSED => "no program listens there: start the backend first".into(),
        Errno::EAGAIN => "its backend does not accept connections".into(),
        Errno::ENAMETOOLONG => "is too long for a socket".into(),
        errno => errno.desc().to_string(),
    })
}
