// SPDX-License-Identifier: Apache-2.0
//! A client of a VM's API: one request, one response, with as much of HTTP/1.1 as that needs.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::file::open_regular;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use spec::VmName;
use spec::api::{
    DEVICE_SECONDS_MAX, Event, Events, Fault, Link, Reboot, Restart, Stats, Stop, Stopping, VmInfo,
};
use spec::state::API_SOCKET;

use crate::error::{CANNOT_ASK, Error, FAILED, NO_VM, REFUSED};

/// How long to wait for a response; the jailer's own deadlines are shorter.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a response if a device gets another backend.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(DEVICE_SECONDS_MAX + TIMEOUT.as_secs());
/// The longest response, in bytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// The most headers of a response.
const HEADERS_MAX: usize = 16;

/// Why a request to a VM failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// There is no VM of this name.
    #[error("VM {0:?}: there is no such VM in {1}")]
    Unknown(String, PathBuf),
    /// Its jailer was killed.
    #[error("VM {vm:?}: its jailer was killed, and it ended", vm = vm.as_str())]
    Dead {
        /// The VM's name.
        vm: VmName,
        /// The directory that holds its state directory.
        base: PathBuf,
    },
    /// Its supervisor is gone, and its jailer is cleaning up.
    #[error("VM {0:?}: is ending")]
    Ending(String),
    /// The connection failed.
    #[error("VM {0:?}")]
    Io(String, #[source] io::Error),
    /// The response is malformed.
    #[error("VM {0:?}: answered what is not understood")]
    Malformed(String),
    /// The VM has refused the request.
    #[error("VM {0:?}: {1}")]
    Refused(String, String),
    /// The program of an upgrade cannot be opened.
    #[error("binary {0:?}")]
    Binary(PathBuf, #[source] io::Error),
    /// The directory that holds all VMs could not be read.
    #[error("state-dir {0:?}")]
    Base(PathBuf, #[source] io::Error),
    /// The VM closed the connection in the middle.
    #[error("VM {0:?}: the connection broke off")]
    BrokenOff(String),
    /// It ended before what was waited for.
    #[error("VM {0:?}: ended before {1}")]
    EndedFirst(String, String),
    /// Its console does not have a socket.
    #[error("VM {0:?}: {1}")]
    NoConsole(String, String),
}

impl ClientError {
    /// The exit status of the verb.
    fn status(&self) -> u8 {
        match self {
            Self::Unknown(..) | Self::Dead { .. } | Self::EndedFirst(..) => NO_VM,
            Self::Refused(..) | Self::NoConsole(..) => REFUSED,
            Self::Ending(_) | Self::Io(..) | Self::Malformed(_) => CANNOT_ASK,
            Self::Base(..) | Self::BrokenOff(_) => CANNOT_ASK,
            Self::Binary(..) => FAILED,
        }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let status = error.status();
        match &error {
            ClientError::Dead { vm, base } => {
                let (base, vm) = (base.clone(), vm.clone());
                Self::new(error).about_dead(base, vm)
            }
            _ => Self::new(error),
        }
        .with_status(status)
    }
}

/// Connects to a socket in a VM's state directory.
pub(crate) fn connect(base: &Path, vm: &VmName, socket: &str) -> Result<UnixStream, ClientError> {
    let dir = base.join(vm.as_str());
    connect_to(base, vm, &dir.join(socket))
}

/// Connects to a socket of a VM, wherever that is.
pub(crate) fn connect_to(
    base: &Path,
    vm: &VmName,
    socket: &Path,
) -> Result<UnixStream, ClientError> {
    let dir = base.join(vm.as_str());
    UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ClientError::Unknown(vm.to_string(), base.into()),
        ErrorKind::ConnectionRefused if is_locked(&dir) => ClientError::Ending(vm.to_string()),
        ErrorKind::ConnectionRefused => ClientError::Dead {
            vm: vm.clone(),
            base: base.into(),
        },
        // Longer than sockaddr_un: no jailer can have made it.
        ErrorKind::InvalidInput => ClientError::Unknown(vm.to_string(), base.into()),
        _ => ClientError::Io(vm.to_string(), error),
    })
}

/// Whether the jailer of a state directory is alive: it holds the lock until it exits.
pub(crate) fn is_locked(dir: &Path) -> bool {
    let Ok(opened) = File::open(dir) else {
        return false;
    };
    let locked = Flock::lock(opened, FlockArg::LockSharedNonblock);
    matches!(locked, Err((_, Errno::EWOULDBLOCK)))
}

/// The VM's current state.
pub(crate) fn info(base: &Path, vm: &VmName) -> Result<VmInfo, ClientError> {
    let body = request(base, vm, "GET", "/v1/vm", "")?;
    serde_json::from_slice(&body).map_err(|_| ClientError::Malformed(vm.to_string()))
}

/// The VM's statistics.
pub(crate) fn stats(base: &Path, vm: &VmName) -> Result<Stats, ClientError> {
    let body = request(base, vm, "GET", "/v1/stats", "")?;
    serde_json::from_slice(&body).map_err(|_| ClientError::Malformed(vm.to_string()))
}

/// The VM's recent events.
pub(crate) fn events(base: &Path, vm: &VmName) -> Result<Vec<Event>, ClientError> {
    let body = request(base, vm, "GET", "/v1/vm/events", "")?;
    let events = serde_json::from_slice::<Events>(&body);
    let events = events.map_err(|_| ClientError::Malformed(vm.to_string()))?;
    Ok(events.events)
}

/// Sends a request without a body.
pub(crate) fn put(base: &Path, vm: &VmName, target: &str) -> Result<(), Error> {
    request(base, vm, "PUT", target, "")?;
    Ok(())
}

/// `bulkhead stop`: passes the answer to `told`, then, with force or a timeout, waits until the name
/// is free again.
pub(crate) fn stop(
    base: &Path,
    vm: &VmName,
    stop: Stop,
    told: impl FnOnce(&Stopping) -> Result<(), Error>,
) -> Result<(), Error> {
    let dir = File::open(base.join(vm.as_str()));
    let waits = stop.force || stop.stop_timeout.is_some();
    let body = serde_json::to_string(&stop);
    let body = body.map_err(|e| ClientError::Io(vm.to_string(), e.into()))?;
    let answer = request(base, vm, "PUT", "/v1/vm/stop", &body)?;
    // A VM of an older version answers nothing.
    let stopping = match answer.is_empty() {
        true => Ok(Stopping::default()),
        false => serde_json::from_slice(&answer),
    };
    told(&stopping.map_err(|_| ClientError::Malformed(vm.to_string()))?)?;
    if let (true, Ok(dir)) = (waits, dir) {
        // The jailer holds the lock as long as anything of the VM is left.
        let _ = Flock::lock(dir, FlockArg::LockShared);
    }
    Ok(())
}

/// `bulkhead reboot`.
pub(crate) fn reboot(base: &Path, vm: &VmName, reboot: Reboot) -> Result<(), Error> {
    let body = serde_json::to_string(&reboot);
    let body = body.map_err(|e| ClientError::Io(vm.to_string(), e.into()))?;
    request(base, vm, "PUT", "/v1/vm/reboot", &body)?;
    Ok(())
}

/// The last of what the VM's guest has written to its console.
pub(crate) fn console(base: &Path, vm: &VmName) -> Result<Vec<u8>, ClientError> {
    request(base, vm, "GET", "/v1/vm/console", "")
}

/// `bulkhead restart`.
pub(crate) fn restart(base: &Path, vm: &VmName, device: &str, wait: bool) -> Result<(), Error> {
    let body = serde_json::to_string(&Restart { wait });
    let body = body.map_err(|e| ClientError::Io(vm.to_string(), e.into()))?;
    let target = format!("/v1/vm/devices/{device}/restart");
    let asked = Asked {
        method: "PUT",
        target: &target,
        body: &body,
        descriptor: None,
        timeout: DEVICE_TIMEOUT,
    };
    asked.of(base, vm)?;
    Ok(())
}

/// `bulkhead link`.
pub(crate) fn link(base: &Path, vm: &VmName, nic: &str, up: bool) -> Result<(), Error> {
    let body = serde_json::to_string(&Link { up });
    let body = body.map_err(|e| ClientError::Io(vm.to_string(), e.into()))?;
    request(
        base,
        vm,
        "PUT",
        &format!("/v1/vm/devices/{nic}/link"),
        &body,
    )?;
    Ok(())
}

/// `bulkhead upgrade`.
pub(crate) fn upgrade(base: &Path, vm: &VmName, device: &str, binary: &Path) -> Result<(), Error> {
    let program = open_regular(binary).map_err(|e| ClientError::Binary(binary.into(), e))?;
    let target = format!("/v1/vm/devices/{device}/upgrade");
    let asked = Asked {
        method: "PUT",
        target: &target,
        body: "",
        descriptor: Some(program.as_fd()),
        timeout: DEVICE_TIMEOUT,
    };
    asked.of(base, vm)?;
    Ok(())
}

fn request(
    base: &Path,
    vm: &VmName,
    method: &str,
    target: &str,
    body: &str,
) -> Result<Vec<u8>, ClientError> {
    let asked = Asked {
        method,
        target,
        body,
        descriptor: None,
        timeout: TIMEOUT,
    };
    asked.of(base, vm)
}

/// A request to send.
struct Asked<'a> {
    method: &'a str,
    target: &'a str,
    body: &'a str,
    /// A descriptor to attach to it.
    descriptor: Option<BorrowedFd<'a>>,
    timeout: Duration,
}

impl Asked<'_> {
    fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let (method, target, body) = (self.method, self.target, self.body);
        let len = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        );
        let mut rest = request.as_bytes();
        if let Some(descriptor) = self.descriptor {
            let raw = [descriptor.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&raw)];
            let parts = [IoSlice::new(rest)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, flags, None)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        stream.write_all(rest)
    }

    fn of(&self, base: &Path, vm: &VmName) -> Result<Vec<u8>, ClientError> {
        let mut stream = connect(base, vm, API_SOCKET)?;
        let failed = |error| ClientError::Io(vm.to_string(), error);
        let mut answer = Vec::new();
        stream
            .set_read_timeout(Some(self.timeout))
            .and_then(|()| stream.set_write_timeout(Some(self.timeout)))
            .and_then(|()| self.send(&mut stream))
            .map_err(failed)?;
        let limit = ANSWER_MAX_BYTES as u64;
        stream
            .take(limit)
            .read_to_end(&mut answer)
            .map_err(failed)?;
        let malformed = || ClientError::Malformed(vm.to_string());
        match parse(&answer).ok_or_else(malformed)? {
            (200..=299, body) => Ok(body.to_vec()),
            (_, body) => {
                let fault: Fault = serde_json::from_slice(body).map_err(|_| malformed())?;
                Err(ClientError::Refused(vm.to_string(), fault.error))
            }
        }
    }
}

/// The status and body of a complete response.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(answer) {
        Ok(httparse::Status::Complete(len)) => Some((parsed.code?, answer.get(len..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_complete_is_parsed_and_cut_is_not() {
        let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((409, &b"{}"[..])));
        assert_eq!(parse(&answer[..30]), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn vm_unknown_and_vm_dead_and_vm_ending_differ() {
        let dir = tempfile::tempdir().unwrap();
        let vm: VmName = "a".parse().unwrap();
        let unknown = info(dir.path(), &vm).unwrap_err();
        assert!(matches!(unknown, ClientError::Unknown(..)), "{unknown}");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let socket = dir.path().join("a").join(API_SOCKET);
        drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
        let dead = info(dir.path(), &vm).unwrap_err();
        assert!(matches!(dead, ClientError::Dead { .. }), "{dead}");
        let opened = File::open(dir.path().join("a")).unwrap();
        let _lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).unwrap();
        let ending = info(dir.path(), &vm).unwrap_err();
        assert!(matches!(ending, ClientError::Ending(_)), "{ending}");
    }
}
