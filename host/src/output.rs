// SPDX-License-Identifier: Apache-2.0
//! Output for the user, on descriptors that other processes share: writing never blocks, and
//! control characters from a guest or a backend never reach a terminal. Used by the command line
//! and the jailer.
//!
//! A descriptor that poll(2) reports as writable still blocks a write that is longer than its free
//! space: a terminal whose reader has stopped would block us for ever, with our signals blocked.
//! And O_NONBLOCK belongs to the open file description, which we share with the user's shell. So we
//! reopen a terminal or pipe, to have a description of our own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::write;

/// How long a line waits for a slow reader.
const LINE_PATIENCE: Duration = Duration::from_secs(1);

/// A descriptor that is written without blocking.
#[derive(Debug)]
pub struct Output<'fd> {
    fd: BorrowedFd<'fd>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Through an open file description of our own.
    Reopened(File),
    Socket,
    /// A terminal or pipe that we may not reopen: after poll(2) reports it writable, only one byte
    /// is certain not to block.
    ByteByByte,
    /// A file: it never blocks.
    File,
}

impl<'fd> Output<'fd> {
    /// For a descriptor that stays open. Does not change its flags.
    pub fn of(fd: BorrowedFd<'fd>) -> Self {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let kind = std::fs::metadata(&path).map(|found| found.file_type());
        let way = match kind {
            Ok(kind) if kind.is_socket() => Way::Socket,
            Ok(kind) if kind.is_char_device() || kind.is_fifo() => OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&path)
                .map_or(Way::ByteByByte, Way::Reopened),
            _ => Way::File,
        };
        Self { fd, way }
    }

    /// Writes as much as there is room for, at least one byte.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; otherwise write(2)'s error.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &self.way {
            Way::Reopened(file) => write(file, bytes),
            Way::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd.as_raw_fd(), bytes, flags)
            }
            Way::ByteByByte => match self.has_room(PollTimeout::ZERO)? {
                true => write(self.fd, &bytes[..bytes.len().min(1)]),
                false => Err(Errno::EAGAIN),
            },
            Way::File => write(self.fd, bytes),
        };
        written.map_err(io::Error::from)
    }

    /// Writes all of it; drops what the reader has not taken after `patience`.
    ///
    /// # Errors
    /// `TimedOut` if some was dropped; otherwise write(2)'s error.
    pub fn write_within(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.has_room(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn has_room(&self, timeout: PollTimeout) -> io::Result<bool> {
        match poll(&mut [PollFd::new(self.fd, PollFlags::POLLOUT)], timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Writes a line to standard error for the user: `program: line`. Drops it if the reader does not
/// take it within a second.
pub fn say(program: &str, line: &str) {
    let stderr = io::stderr();
    let _ = stderr.lock().flush();
    let text = format!("{program}: {}\n", harmless(line));
    let _ = Output::of(stderr.as_fd()).write_within(text.as_bytes(), LINE_PATIENCE);
}

/// The line with a space for each character that a terminal would interpret or that changes how the
/// line reads: control characters, line separators, and those that reverse or hide text.
#[must_use]
pub fn harmless(line: &str) -> String {
    let shown = |c| if misleads(c) { ' ' } else { c };
    line.chars().map(shown).collect()
}

/// Whether a character must not reach the user's terminal (Unicode: Cc, Zl, Zp, Bidi_Control, and
/// those without width).
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::unistd::pipe;

    /// Writes until there is no room; how much there was.
    fn fill(output: &Output<'_>) -> usize {
        let chunk = [b'x'; 1000];
        let mut total = 0;
        // A pipe takes so little as a whole or not at all.
        for len in [chunk.len(), 1] {
            while let Ok(written) = output.write(&chunk[..len]) {
                total += written;
            }
        }
        let error = output.write(&chunk).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        total
    }

    fn is_blocking(fd: BorrowedFd<'_>) -> bool {
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        !flags.contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn pipe_and_socket_that_nobody_reads_take_what_they_hold_and_keep_their_flags() {
        let (mut from_pipe, to_pipe) = pipe().map(|(r, w)| (File::from(r), w)).unwrap();
        let (mut from_socket, to_socket) = UnixStream::pair().unwrap();
        for (fd, reader) in [
            (to_pipe.as_fd(), &mut from_pipe as &mut dyn Read),
            (to_socket.as_fd(), &mut from_socket),
        ] {
            let output = Output::of(fd);
            let total = fill(&output);
            assert!(total > 1000);
            assert!(is_blocking(fd));
            let error = output.write_within(b"late", Duration::from_millis(5));
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let mut read = vec![0; total];
            reader.read_exact(&mut read).unwrap();
            output.write_within(b"again", LINE_PATIENCE).unwrap();
        }
    }

    #[test]
    fn terminal_or_pipe_that_cannot_be_opened_takes_a_byte_at_a_time() {
        let (_reader, writer) = pipe().unwrap();
        let output = Output {
            fd: writer.as_fd(),
            way: Way::ByteByByte,
        };
        assert_eq!(output.write(b"many").unwrap(), 1);
        assert!(fill(&output) > 1000);
    }

    #[test]
    fn file_is_written_where_others_have_left_off() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"one ").unwrap();
        let output = Output::of(file.as_fd());
        output.write_within(b"two ", LINE_PATIENCE).unwrap();
        (&file).write_all(b"three").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 13);
    }

    #[test]
    fn line_with_characters_that_mislead_is_shown_without_them() {
        let line = "lost: \x1b[2J\r\nfake\u{9b}31m";
        assert_eq!(harmless(line), "lost:  [2J  fake 31m");
        assert_eq!(
            harmless("a\u{202e}b\u{2067}c\u{200b}d\u{2028}e"),
            "a b c d e"
        );
        assert_eq!(harmless("as it was: äß 日本 →"), "as it was: äß 日本 →");
    }
}
