// SPDX-License-Identifier: Apache-2.0
//! Limits the length of the VM's log. Every process of the VM can append to it, may be compromised,
//! and could fill the host's file system.
//!
//! All of them write to one open file, so it cannot be replaced: its content moves to a second file.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use handover::host_resources::Log;

const SECOND_NS: u64 = 1_000_000_000;
/// How soon the supervisor looks again when it is awake for another reason: while a backend lives,
/// its pings wake it.
const SOON_NS: u64 = SECOND_NS;
/// How soon it looks again in any case. Without a backend only the vmm can write.
const LATE_NS: u64 = 5 * SECOND_NS;
/// A longer log moves to the second file, whose content is dropped.
const ROTATED_BYTES: u64 = 4 << 20;
/// A log that has become longer than this between two looks is a flood: it is not moved, but cut.
const FLOOD_BYTES: u64 = 16 << 20;
/// How much of it is kept then: its beginning tells more than what filled it.
const KEPT_BYTES: u64 = 1 << 20;
/// How much is moved at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Keeps the VM's log short.
#[derive(Debug, Default)]
pub(crate) struct LogRotation {
    looked_ns: u64,
}

/// What was done with a log.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Nothing,
    /// It was so long, and is in the second file.
    Rotated(u64),
    /// It was so long, and only its beginning is left.
    Cut(u64),
}

impl LogRotation {
    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.looked_ns + LATE_NS
    }

    /// Rotates the log if it has become too long.
    pub(crate) fn tick(&mut self, log: &Log, now_ns: u64) {
        if now_ns < self.looked_ns + SOON_NS {
            return;
        }
        self.looked_ns = now_ns;
        match shorten(log) {
            Ok(Done::Nothing) => {}
            Ok(Done::Rotated(len)) => log::info!("the log was rotated: it was {len} bytes long"),
            Ok(Done::Cut(len)) => log::error!("the log was cut: it was {len} bytes long"),
            Err(error) => log::error!("the log cannot be rotated: {error}"),
        }
    }
}

fn shorten(log: &Log) -> io::Result<Done> {
    let len = log.writer.metadata()?.len();
    if len <= ROTATED_BYTES {
        return Ok(Done::Nothing);
    }
    if len > FLOOD_BYTES {
        log.writer.set_len(KEPT_BYTES)?;
        return Ok(Done::Cut(len));
    }
    log.old.set_len(0)?;
    // What was copied before a copy fails, for instance because the file system is full, is all
    // that can be kept.
    let moved = copy(&log.reader, &log.old);
    log.writer.set_len(0)?;
    moved.map(Done::Rotated)
}

/// Copies what a log holds, also what is written meanwhile, but never more than a flood; returns
/// how much.
fn copy(from: &File, mut to: &File) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut copied = 0;
    while copied < FLOOD_BYTES {
        let read = from.read_at(&mut chunk, copied)?;
        if read == 0 {
            break;
        }
        to.write_all(chunk.get(..read).unwrap_or_default())?;
        copied += read as u64;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn log(dir: &Path) -> Log {
        let open = |name: &str| {
            let mut options = File::options();
            options.append(true).create(true);
            options.open(dir.join(name)).unwrap()
        };
        Log {
            writer: open("log"),
            reader: File::open(dir.join("log")).unwrap(),
            old: open("log.old"),
        }
    }

    #[test]
    fn log_that_is_long_moves_to_the_second_file_and_goes_on_empty() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        for name in ["first", "second"] {
            writeln!(&log.writer, "{name}").unwrap();
            assert_eq!(shorten(&log).unwrap(), Done::Nothing);
            log.writer.set_len(ROTATED_BYTES + 1).unwrap();
            assert_eq!(shorten(&log).unwrap(), Done::Rotated(ROTATED_BYTES + 1));
            let old = fs::read(dir.path().join("log.old")).unwrap();
            assert_eq!(old.len() as u64, ROTATED_BYTES + 1);
            assert!(old.starts_with(name.as_bytes()));
        }
        writeln!(&log.writer, "third").unwrap();
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(text, "third\n");
    }

    #[test]
    fn flood_is_cut_and_leaves_what_was_rotated_before() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        writeln!(&log.old, "before").unwrap();
        writeln!(&log.writer, "beginning").unwrap();
        log.writer.set_len(FLOOD_BYTES + 1).unwrap();
        assert_eq!(shorten(&log).unwrap(), Done::Cut(FLOOD_BYTES + 1));
        let text = fs::read(dir.path().join("log")).unwrap();
        assert_eq!(text.len() as u64, KEPT_BYTES);
        assert!(text.starts_with(b"beginning"));
        let old = fs::read_to_string(dir.path().join("log.old")).unwrap();
        assert_eq!(old, "before\n");
    }
}
