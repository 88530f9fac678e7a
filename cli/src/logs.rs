// SPDX-License-Identifier: Apache-2.0
//! `bulkhead logs`: the log of a VM's processes, and what they add to it until the VM has ended.
//!
//! The file is the VM's, and its processes may be compromised: every line is shown without what a
//! terminal would interpret, and a line that does not end is shown in pieces.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::SystemTime;

use host::clock::monotonic_ns;
use host::log::entry::{Entry, as_text};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use spec::VmName;
use spec::state::{LOG, LOG_OLD};

use crate::client::ClientError;
use crate::error::Error;
use crate::output;

/// How much is read at once, and the longest piece of a line.
const CHUNK_BYTES: usize = 64 << 10;

/// Shows the log of a VM; with `follow`, until the VM has ended.
pub(crate) fn logs(base: &Path, vm: &VmName, follow: bool, json: bool) -> Result<(), Error> {
    let path = base.join(vm.as_str()).join(LOG);
    let file = File::open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ClientError::Unknown(vm.to_string(), base.into()),
        _ => ClientError::Io(vm.to_string(), error),
    })?;
    let failed = |error| Error::from(ClientError::Io(vm.to_string(), error));
    // Before the first look, so that nothing is missed.
    let changes = match follow {
        true => Some(changes(&path).map_err(|errno| failed(errno.into()))?),
        false => None,
    };
    // VMs of an earlier version have none.
    let old = File::open(base.join(vm.as_str()).join(LOG_OLD)).ok();
    let mut log = Reader::new(file, old).map_err(failed)?;
    loop {
        // What was written before the file was removed is still to be read.
        let is_gone = log.is_gone().map_err(failed)?;
        while let Some(lines) = log.lines().map_err(failed)? {
            lines.iter().try_for_each(|line| show(line, json))?;
        }
        let Some(changes) = changes.as_ref().filter(|_| !is_gone) else {
            return log.rest().map_or(Ok(()), |line| show(&line, json));
        };
        if !wait(changes).map_err(|errno| failed(errno.into()))? {
            return Ok(());
        }
    }
}

/// Tells of what is written to a file, and of its removal.
fn changes(path: &Path) -> nix::Result<Inotify> {
    let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF;
    changes.add_watch(path, what)?;
    Ok(changes)
}

/// Waits for a change; `false` if no process reads our standard output any more.
fn wait(changes: &Inotify) -> nix::Result<bool> {
    let stdout = io::stdout();
    let mut fds = [
        PollFd::new(changes.as_fd(), PollFlags::POLLIN),
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let reader = fds[1].revents().unwrap_or(PollFlags::empty());
    if reader.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
        return Ok(false);
    }
    match changes.read_events() {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Reads a log line by line, and what was rotated out of it first.
#[derive(Debug)]
struct Reader {
    file: File,
    offset: u64,
    old: Option<File>,
    /// What of the old file is to be read first.
    old_offset: Option<u64>,
    /// The old file's length and time of change at the last look.
    old_state: Option<(u64, i64, i64)>,
    /// The beginning of a line.
    pending: Vec<u8>,
}

impl Reader {
    fn new(file: File, old: Option<File>) -> io::Result<Self> {
        let mut reader = Self {
            file,
            offset: 0,
            old,
            old_offset: Some(0),
            old_state: None,
            pending: Vec::new(),
        };
        reader.old_state = reader.state_of_old()?;
        Ok(reader)
    }

    fn state_of_old(&self) -> io::Result<Option<(u64, i64, i64)>> {
        let found = self.old.as_ref().map(File::metadata).transpose()?;
        Ok(found.map(|found| (found.len(), found.mtime(), found.mtime_nsec())))
    }

    /// Whether the VM has ended: its state directory is removed.
    fn is_gone(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    /// The next lines; `None` at the end.
    fn lines(&mut self) -> io::Result<Option<Vec<String>>> {
        self.notice_rotation()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = match (&self.old, &mut self.old_offset) {
            (Some(old), Some(offset)) => {
                let read = old.read_at(&mut chunk, *offset)?;
                *offset += read as u64;
                read
            }
            _ => 0,
        };
        let read = match read {
            0 => {
                self.old_offset = None;
                let read = self.file.read_at(&mut chunk, self.offset)?;
                self.offset += read as u64;
                read
            }
            read => read,
        };
        if read == 0 {
            return Ok(None);
        }
        self.pending.extend(chunk.iter().take(read));
        // All at once: a process may write nothing but ends of lines.
        let end = self.pending.iter().rposition(|byte| *byte == b'\n');
        let mut lines: Vec<String> = end.map_or_else(Vec::new, |end| {
            let whole: Vec<u8> = self.pending.drain(..=end).collect();
            let whole = whole.strip_suffix(b"\n").unwrap_or(&whole);
            whole.split(|byte| *byte == b'\n').map(text).collect()
        });
        if self.pending.len() > CHUNK_BYTES {
            lines.extend(self.rest());
        }
        Ok(Some(lines))
    }

    /// A log that has become shorter was rotated, or, if the old file is as before, cut.
    fn notice_rotation(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len >= self.offset {
            return Ok(());
        }
        let state = self.state_of_old()?;
        if state == self.old_state {
            self.offset = len;
        } else {
            (self.old_offset, self.offset) = (Some(self.offset), 0);
        }
        self.old_state = state;
        Ok(())
    }

    /// A line that has not ended.
    fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| text(&rest))
    }
}

fn text(line: &[u8]) -> String {
    host::output::harmless(&String::from_utf8_lossy(line))
}

fn show(line: &str, json: bool) -> Result<(), Error> {
    let shown = match json {
        false => as_text(line),
        true => Cow::Owned(Entry::of(line, monotonic_ns(), SystemTime::now()).to_json()),
    };
    output::print(&format!("{shown}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn all(log: &mut Reader) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(more) = log.lines().unwrap() {
            lines.extend(more);
        }
        lines
    }

    #[test]
    fn lines_come_when_they_are_whole_and_again_after_a_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Reader::new(file.reopen().unwrap(), None).unwrap();
        let mut writer = file.as_file();
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(all(&mut log), ["one"]);
        writer.write_all(b"o\x1b[2J\n").unwrap();
        assert_eq!(all(&mut log), ["two [2J"]);
        writer.set_len(4).unwrap();
        assert_eq!(all(&mut log), [""; 0]);
        std::io::Seek::seek(&mut writer, io::SeekFrom::End(0)).unwrap();
        writer.write_all(b"three\nend").unwrap();
        assert_eq!(all(&mut log), ["three"]);
        assert!(!log.is_gone().unwrap());
        drop(file);
        assert!(log.is_gone().unwrap());
        assert_eq!(log.rest().as_deref(), Some("end"));
    }

    #[test]
    fn lines_that_were_rotated_away_come_first_and_none_twice() {
        let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let [mut file, mut old] = files.each_ref().map(|file| file.as_file());
        old.write_all(b"older\n").unwrap();
        file.write_all(b"one\n").unwrap();
        let again = files[1].reopen().unwrap();
        let mut log = Reader::new(files[0].reopen().unwrap(), Some(again)).unwrap();
        assert_eq!(all(&mut log), ["older", "one"]);
        // The supervisor moves what the log holds, and the log goes on.
        old.set_len(0).unwrap();
        io::Seek::rewind(&mut old).unwrap();
        old.write_all(b"one\ntwo\n").unwrap();
        file.set_len(0).unwrap();
        assert_eq!(all(&mut log), ["two"]);
        io::Seek::rewind(&mut file).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(all(&mut log), ["three"]);
    }

    #[test]
    fn line_without_an_end_comes_in_pieces() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Reader::new(file.reopen().unwrap(), None).unwrap();
        file.as_file().set_len(5 * CHUNK_BYTES as u64).unwrap();
        let pieces = all(&mut log);
        assert!(pieces.len() >= 2, "{}", pieces.len());
        let shown: usize = pieces.iter().map(|piece| piece.chars().count()).sum();
        assert_eq!(shown + log.pending.len(), 5 * CHUNK_BYTES);
    }
}
