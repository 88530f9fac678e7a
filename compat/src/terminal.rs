// SPDX-License-Identifier: Apache-2.0
//! A serial port on our own standard input and output (`serial.mode` `Tty`).

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, Once};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The VM's end of the port, for what is typed.
static TYPED: Mutex<Option<UnixStream>> = Mutex::new(None);
/// How the terminal was before.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static READER: Once = Once::new();

/// A stream for a VM's console, which is connected to our standard input and output.
pub(crate) fn connect() -> io::Result<OwnedFd> {
    let (ours, its) = UnixStream::pair()?;
    let mut shown = ours.try_clone()?;
    if let Ok(mut typed) = TYPED.lock() {
        *typed = Some(ours);
    }
    make_raw();
    std::thread::spawn(move || copy(&mut shown, &mut io::stdout()));
    READER.call_once(|| {
        std::thread::spawn(|| {
            let mut chunk = [0; 1024];
            while let Ok(len @ 1..) = io::stdin().read(&mut chunk) {
                if let Ok(typed) = TYPED.lock()
                    && let Some(mut stream) = typed.as_ref()
                {
                    let _ = stream.write_all(&chunk[..len]);
                }
            }
        });
    });
    Ok(its.into())
}

/// Passes on what comes, at once.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut chunk = [0; 1024];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if to
            .write_all(&chunk[..len])
            .and_then(|()| to.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Lets the guest have every key, if there is a terminal.
fn make_raw() {
    let stdin = io::stdin();
    if let (Ok(before), Ok(mut kept)) = (tcgetattr(stdin.as_fd()), BEFORE.lock())
        && kept.is_none()
    {
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw);
        *kept = Some(before);
    }
}

/// Leaves the terminal as it was.
pub(crate) fn restore() {
    if let Ok(mut kept) = BEFORE.lock()
        && let Some(before) = kept.take()
    {
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &before);
    }
}
