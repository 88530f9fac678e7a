// SPDX-License-Identifier: Apache-2.0
//! The API's socket and its clients.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::PollFlags;

use crate::connection::Connection;
use crate::http::Request;

/// The most clients: the next one takes the place of the one that has been idle for the longest time.
const CONNECTIONS_MAX: usize = 64;

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Another process listens there.
    #[error("--api-socket {0:?}: another process listens there")]
    Taken(PathBuf),
    /// It cannot be bound.
    #[error("--api-socket {0:?}")]
    Bind(PathBuf, #[source] io::Error),
}

/// The socket, and who is connected to it: the idlest first.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// The path, which is ours to remove.
    bound: Option<PathBuf>,
    clients: Vec<Connection>,
}

impl Listener {
    /// Binds a socket. Removes the socket file of a dead process, but not of a live one.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(path: &Path) -> Result<Self, ListenerError> {
        if UnixStream::connect(path).is_ok() {
            return Err(ListenerError::Taken(path.into()));
        }
        let failed = |error| ListenerError::Bind(path.into(), error);
        if path
            .symlink_metadata()
            .is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()))
        {
            fs::remove_file(path).map_err(failed)?;
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            socket,
            bound: Some(path.into()),
            clients: Vec::new(),
        })
    }

    /// Takes a socket that listens already, and the path that it is bound to, if it has one.
    ///
    /// # Errors
    /// When it is no such socket.
    pub fn of(fd: OwnedFd) -> io::Result<(Self, Option<PathBuf>)> {
        use nix::sys::socket::{getsockopt, sockopt};
        if !getsockopt(&fd, sockopt::AcceptConn)? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = UnixListener::from(fd);
        socket.set_nonblocking(true)?;
        let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
        let listener = Self {
            socket,
            bound: None,
            clients: Vec::new(),
        };
        Ok((listener, path))
    }

    /// The descriptors to wait for: the socket first, then the clients in order.
    pub fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut all = vec![(self.socket.as_fd(), PollFlags::POLLIN)];
        all.extend(self.clients.iter().map(Connection::interest));
        all
    }

    /// Handles what is ready, in the order of [`Self::interests`].
    pub fn ready(&mut self, ready: &[bool]) {
        let mut clients = std::mem::take(&mut self.clients);
        let is_awake = |at: usize| ready.get(at + 1).copied().unwrap_or(false);
        let mut awake = Vec::new();
        for (at, mut client) in clients.drain(..).enumerate() {
            if is_awake(at) {
                client.ready();
                awake.push(client);
            } else {
                self.clients.push(client);
            }
        }
        self.clients.extend(awake);
        if ready.first().copied().unwrap_or(false) {
            self.accept();
        }
        self.forget();
    }

    /// Drops the clients that are done.
    pub fn forget(&mut self) {
        self.clients.retain(|client| !client.is_over());
    }

    fn accept(&mut self) {
        // What the client lacks is not ours to report, and the next one may fare better.
        while let Ok((stream, _)) = self.socket.accept() {
            if self.clients.len() >= CONNECTIONS_MAX {
                self.clients.remove(0);
            }
            self.clients.extend(Connection::new(stream));
        }
    }

    /// The next request of any client, and that client.
    pub fn next_request(&mut self) -> Option<(Request, Vec<OwnedFd>, &mut Connection)> {
        let mut clients = self.clients.iter_mut();
        clients.find_map(|client| {
            let (request, descriptors) = client.next_request()?;
            Some((request, descriptors, client))
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.bound {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::http::Answer;

    fn turn(listener: &mut Listener) {
        let all = vec![true; listener.interests().len()];
        listener.ready(&all);
    }

    #[test]
    fn client_too_many_takes_the_place_of_the_idlest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut listener = Listener::bind(&path).unwrap();
        let idle: Vec<_> = (0..300)
            .map(|_| {
                let client = UnixStream::connect(&path).unwrap();
                turn(&mut listener);
                client
            })
            .collect();
        assert_eq!(listener.clients.len(), CONNECTIONS_MAX);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        turn(&mut listener);
        turn(&mut listener);
        let (_, _, served) = listener.next_request().unwrap();
        served.answer(&Answer::Done, false);
        listener.forget();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 204 "), "{text}");
        let mut first = &idle[0];
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "the idlest was dropped");
    }

    #[test]
    fn socket_of_a_live_process_is_left_alone_and_of_a_dead_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = UnixListener::bind(&path).unwrap();
        assert!(matches!(
            Listener::bind(&path),
            Err(ListenerError::Taken(_))
        ));
        drop(live);
        drop(Listener::bind(&path).unwrap());
        assert!(!path.exists(), "it is removed with its owner");
    }

    #[test]
    fn descriptor_that_does_not_listen_is_refused_and_one_that_does_has_its_path() {
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(Listener::of(stream.into()).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm-socket");
        let socket = UnixListener::bind(&path).unwrap();
        let (listener, found) = Listener::of(socket.into()).unwrap();
        assert_eq!(found, Some(path.clone()));
        drop(listener);
        assert!(path.exists(), "it is the client's");
    }
}
