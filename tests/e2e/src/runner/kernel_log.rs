// SPDX-License-Identifier: Apache-2.0
//! What the kernel's log says of processes that seccomp filters killed while a case ran: the number of
//! the system call is told nowhere else.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;

/// How the audit names a call that a filter has answered.
const SECCOMP: &str = "type=1326";
/// An escape probe tries all there are.
const TOLD_MAX: usize = 10;
/// Longer than a record of `/dev/kmsg` (printk's limit and a header).
const RECORD_BYTES: usize = 8192;

/// A place in the kernel's log.
pub(super) struct KernelLog(Option<File>);

impl KernelLog {
    /// The end of the log as it is now. Only root may read it; for others it has nothing.
    pub(super) fn from_here() -> Self {
        let flags = OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open("/dev/kmsg");
        let at_end = file.and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file));
        Self(at_end.ok())
    }

    /// The last calls that filters refused since then, a line each.
    pub(super) fn of_filters(self) -> Vec<String> {
        let Some(mut file) = self.0 else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut record = vec![0; RECORD_BYTES];
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]).into_owned();
                    let line = text.lines().next().unwrap_or_default();
                    found.extend(line.contains(SECCOMP).then(|| line.to_owned()));
                }
                // The log has gone past this place: the next read begins at its oldest record.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        let first = found.len().saturating_sub(TOLD_MAX);
        found.split_off(first)
    }
}
