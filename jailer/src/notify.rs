// SPDX-License-Identifier: Apache-2.0
//! Connects to the service manager that waits until the VM is ready: `NOTIFY_SOCKET` of
//! sd_notify(3).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket in `NOTIFY_SOCKET` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("NOTIFY_SOCKET {name:?}")]
pub(crate) struct NotifyError {
    name: OsString,
    #[source]
    source: io::Error,
}

/// Connects to the socket: a path, or an abstract name behind `@`.
pub(crate) fn connect(name: Option<OsString>) -> Result<Option<UnixDatagram>, NotifyError> {
    match name {
        Some(name) if !name.is_empty() => match open(name.as_bytes()) {
            Ok(socket) => Ok(Some(socket)),
            Err(source) => Err(NotifyError { name, source }),
        },
        _ => Ok(None),
    }
}

fn open(name: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match name.strip_prefix(b"@") {
        Some(abstract_name) => {
            socket.connect_addr(&SocketAddr::from_abstract_name(abstract_name)?)?;
        }
        None => socket.connect(std::ffi::OsStr::from_bytes(name))?,
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_by_path_or_abstract_name_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("bulkhead-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let ears = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&address).unwrap(),
                format!("@{abstract_name}").into(),
            ),
        ];
        for (ear, name) in ears {
            let mouth = connect(Some(name)).unwrap().unwrap();
            mouth.send(b"READY=1").unwrap();
            assert_eq!(ear.recv(&mut [0; 16]).unwrap(), 7);
        }
    }

    #[test]
    fn socket_unset_is_none_and_dead_is_an_error() {
        assert!(connect(None).unwrap().is_none());
        assert!(connect(Some("".into())).unwrap().is_none());
        assert!(connect(Some("/nonexistent".into())).is_err());
    }
}
