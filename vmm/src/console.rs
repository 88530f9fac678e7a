// SPDX-License-Identifier: Apache-2.0
//! Carries bytes between COM1 and the descriptor that the supervisor has passed, on the main
//! thread.
//!
//! The descriptor is non-blocking. The main thread polls for room and never blocks in a write. It
//! stops using a console whose reader is gone, and treats /dev/null the same: guest output then
//! wakes no thread.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use devices::serial::Serial;
use host::clock::monotonic_ns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::unistd::{read, write};

/// How long to wait for the console to read the guest's last output after the machine has ended, in
/// ns.
const LAST_WORDS_NS: u64 = 500_000_000;

/// The host's side of COM1.
#[derive(Debug)]
pub struct Console {
    fd: OwnedFd,
    serial: Arc<Serial>,
    readable: bool,
    writable: bool,
    /// The last write was incomplete.
    backlog: bool,
}

impl Console {
    /// A console on `fd`.
    pub fn new(fd: OwnedFd, serial: Arc<Serial>) -> Self {
        let exists = !is_null(fd.as_fd());
        if !exists {
            serial.close_output();
        }
        Self {
            fd,
            serial,
            readable: exists,
            writable: exists,
            backlog: false,
        }
    }

    /// The events to poll for.
    pub fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(
            PollFlags::POLLIN,
            self.readable && self.serial.input_room() > 0,
        );
        interest.set(PollFlags::POLLOUT, self.backlog && self.writable);
        interest
    }

    /// Moves bytes both ways, without blocking.
    pub fn serve(&mut self, ready: PollFlags) {
        if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.take_input();
        }
        self.push_output();
    }

    fn take_input(&mut self) {
        let mut buffer = [0; 64];
        let room = self.serial.input_room().min(buffer.len());
        if !self.readable || room == 0 {
            return;
        }
        match read(&self.fd, &mut buffer[..room]) {
            Ok(0) => self.readable = false,
            Ok(len) => {
                self.serial.input(&buffer[..len]);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // A write-only file, or a peer that is gone.
            Err(_) => self.readable = false,
        }
    }

    fn push_output(&mut self) {
        let mut output = self.serial.take_output();
        while self.writable && !output.is_empty() {
            match write_some(self.fd.as_fd(), &output) {
                Ok(len) => drop(output.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    self.writable = false;
                    self.serial.close_output();
                }
            }
        }
        self.backlog = self.writable && !output.is_empty();
        if self.backlog {
            self.serial.return_output(output);
        }
    }

    /// Gives a slow console time to read the guest's last output.
    pub fn finish(&mut self) {
        let deadline_ns = monotonic_ns() + LAST_WORDS_NS;
        self.push_output();
        while self.backlog {
            let left_ms = deadline_ns.saturating_sub(monotonic_ns()) / 1_000_000;
            let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, timeout) {
                Ok(1..) | Err(Errno::EINTR) => self.push_output(),
                _ => return,
            }
        }
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn write_some(fd: BorrowedFd<'_>, output: &VecDeque<u8>) -> nix::Result<usize> {
    let (front, back) = output.as_slices();
    write(fd, if front.is_empty() { back } else { front })
}

/// Whether this is /dev/null: device 1:3 (Documentation/admin-guide/devices.txt).
fn is_null(fd: BorrowedFd<'_>) -> bool {
    let is_device = |kind: u32| SFlag::from_bits_truncate(kind) & SFlag::S_IFMT == SFlag::S_IFCHR;
    fstat(fd).is_ok_and(|stat| is_device(stat.st_mode) && stat.st_rdev == makedev(1, 3))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use devices::bus::BusDevice;
    use devices::interrupt::InterruptLine;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    struct Unheard;
    impl InterruptLine for Unheard {
        fn set(&self, _: bool) {}
    }

    /// Has the guest write so many bytes, the main thread do what it is woken for, and counts how often
    /// that is.
    fn count_wakes(fd: OwnedFd, bytes: usize) -> usize {
        let wake = EventFd::new(EFD_NONBLOCK).unwrap();
        let serial = Arc::new(Serial::new(Arc::new(Unheard), &wake).unwrap());
        let mut console = Console::new(fd, Arc::clone(&serial));
        let write_and_serve = |_: &usize| {
            serial.write(0, b"x");
            let woken = wake.read().is_ok();
            if woken {
                console.serve(PollFlags::empty());
            }
            woken
        };
        (0..bytes).filter(write_and_serve).count()
    }

    #[test]
    fn console_that_is_gone_wakes_the_main_thread_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(count_wakes(ours.into(), 10_000), 1);
    }

    #[test]
    fn console_that_is_none_never_wakes_the_main_thread() {
        let null = File::options().read(true).write(true).open("/dev/null");
        assert_eq!(count_wakes(null.unwrap().into(), 10_000), 0);
    }

    #[test]
    fn console_that_does_not_read_wakes_the_main_thread_only_until_it_is_full() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while let Ok(len) = nix::unistd::write(&ours, &[0; 4096]) {
            filled += len;
        }
        assert!(filled > 0);
        assert_eq!(count_wakes(ours.into(), 10_000), 1);
        drop(theirs);
    }

    #[test]
    fn console_that_reads_is_given_everything() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(count_wakes(ours.into(), 100) > 0);
        let mut told = Vec::new();
        std::io::Read::read_to_end(&mut &theirs, &mut told).unwrap();
        assert_eq!(told, [b'x'; 100]);
    }
}
