// SPDX-License-Identifier: Apache-2.0
//! Opens files of the host by path, and says why one cannot be opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use host::file::open_regular;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use spec::{ByteSize, SpecError};

/// The text of an I/O error as in errno(3), without its number.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().into(),
        None => error.to_string(),
    }
}

pub(crate) fn open(path: &Path, read: bool, write: bool, flags: OFlag) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(read).write(write);
    options.custom_flags((flags | OFlag::O_NOCTTY).bits());
    options.open(path)
}

/// Opens a program that we start.
pub(crate) fn open_binary(field: &'static str, path: &Path) -> Result<OwnedFd, SpecError> {
    let error = |reason: String| SpecError::new(field, path.display(), reason);
    let file = open(path, true, false, OFlag::O_PATH)
        .map_err(|e| error(format!("{}: it belongs beside the jailer", cause(&e))))?;
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file.into()),
        Ok(_) => Err(error("is not a program".into())),
        Err(e) => Err(error(cause(&e))),
    }
}

/// Opens a kernel or an initrd: a regular file that is not empty. The vmm checks its contents. Runs
/// in a helper.
pub(crate) fn open_file(path: &Path) -> Result<File, String> {
    let file = open_regular(path).map_err(|e| cause(&e))?;
    match file.metadata().map_err(|e| cause(&e))?.len() {
        0 => Err("is empty".into()),
        1.. => Ok(file),
    }
}

/// Opens an initrd, which must fit into so much memory. Runs in a helper.
pub(crate) fn open_initrd(path: &Path, mem_bytes: u64) -> Result<File, String> {
    let file = open_file(path)?;
    let len = file.metadata().map_err(|e| cause(&e))?.len();
    if len >= mem_bytes {
        let mem = ByteSize(mem_bytes);
        return Err(format!(
            "is {len} bytes long and does not fit into mem {mem}"
        ));
    }
    Ok(file)
}
