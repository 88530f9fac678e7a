// SPDX-License-Identifier: Apache-2.0
//! Files that the user names: opened without blocking, and rejected if they are not regular. Used
//! by the command line and the jailer.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading, without blocking: open(2) of a named pipe would wait for its
/// writer, and a device may block for any reason.
///
/// # Errors
/// open(2)'s error; `InvalidInput`, naming the file type, if the file is not a regular one.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true);
    let opened = options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // open(2) of a socket, or of a device without a driver.
        Some(libc::ENXIO) => std::fs::metadata(path).map_or(error, |found| odd(found.file_type())),
        _ => error,
    })?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() {
        true => Ok(file),
        false => Err(odd(kind)),
    }
}

fn odd(kind: FileType) -> io::Error {
    let reason = format!("is {}, not a regular file", name(kind));
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// The name of a file type, with its article.
#[must_use]
pub fn name(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() => "a character device",
        _ if kind.is_block_device() => "a block device",
        _ => "a file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn file_that_is_none_is_refused_at_once_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (path, expected) in [
            (at("pipe"), "is a named pipe, not a regular file"),
            (at("socket"), "is a socket, not a regular file"),
            (at("."), "is a directory, not a regular file"),
            (
                "/dev/zero".into(),
                "is a character device, not a regular file",
            ),
        ] {
            assert_eq!(open_regular(&path).unwrap_err().to_string(), expected);
        }
        open_regular(&at("file")).unwrap();
        let missing = open_regular(&at("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
