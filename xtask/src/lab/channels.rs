// SPDX-License-Identifier: Apache-2.0
//! The streams between the inner host and us: a unix socket each, with QEMU connecting to us.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A socket that QEMU will connect to.
pub(crate) fn listen(dir: &Path, name: &str) -> Result<UnixListener> {
    UnixListener::bind(dir.join(name)).with_context(|| format!("cannot listen on {name}"))
}

/// When the inner host was last heard of.
#[derive(Debug, Clone)]
pub(crate) struct LastHeard(Arc<Mutex<Instant>>);

impl LastHeard {
    /// It is heard of now.
    pub(crate) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It is heard of again.
    pub(crate) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long it has said nothing.
    pub(crate) fn silence(&self) -> Duration {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

/// Streams standard output to ours, line by line where `show` says so; the thread returns all of it.
pub(crate) fn stdout(
    listener: UnixListener,
    show: fn(&str) -> bool,
    heard: LastHeard,
) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let Ok((stream, _)) = listener.accept() else {
            return all;
        };
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            heard.touch();
            if show(&String::from_utf8_lossy(&line)) {
                // Nobody reading our output is no reason to stop the job.
                let _ = io::stdout().write_all(&line);
                let _ = io::stdout().flush();
            }
            all.append(&mut line);
        }
        all
    })
}

/// Streams standard error to ours.
pub(crate) fn stderr(listener: UnixListener) -> JoinHandle<()> {
    thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = io::copy(&mut stream, &mut io::stderr());
        }
    })
}

/// What the inner host reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// It is up, and the command begins.
    Began,
    /// The command ended with this exit status.
    Ended(u8),
}

/// Delivers what the inner host reports; closes when QEMU has ended.
pub(crate) fn reports(listener: UnixListener) -> Receiver<Report> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(line)) = lines.next() {
            let sent = match report(&line) {
                Some(report) => sender.send(report),
                None => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    receiver
}

fn report(line: &str) -> Option<Report> {
    match line.split_once(' ') {
        None => (line == "begin").then_some(Report::Began),
        Some(("exit", status)) => status.parse().ok().map(Report::Ended),
        Some(_) => None,
    }
}

/// The byte that leaves the inner host's terminal: Ctrl-].
const LEAVE: u8 = 0x1d;

/// Copies the keyboard to the inner host and its screen to ours; a message means the user left.
pub(crate) fn terminal(listener: UnixListener) -> Receiver<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        let Ok(mut screen) = stream.try_clone() else {
            return;
        };
        thread::spawn(move || {
            let _ = copy_unbuffered(&mut screen);
        });
        keyboard(stream);
        let _ = sender.send(());
    });
    receiver
}

/// Returns when the user types [`LEAVE`] or there is no more input.
fn keyboard(mut stream: UnixStream) {
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
        let typed = &buffer[..length];
        if typed.contains(&LEAVE) || stream.write_all(typed).is_err() {
            return;
        }
    }
}

fn copy_unbuffered(screen: &mut UnixStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = screen.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        io::stdout().write_all(&buffer[..length])?;
        io::stdout().flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood_and_noise_is_not() {
        assert_eq!(report("begin"), Some(Report::Began));
        assert_eq!(report("exit 7"), Some(Report::Ended(7)));
        assert_eq!(report("exit 700"), None);
        assert_eq!(report("something else"), None);
    }
}
