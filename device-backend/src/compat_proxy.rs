// SPDX-License-Identifier: Apache-2.0
//! A proxy between a frontend and the daemon of vhost-user-backend that brings requests into the
//! order that the daemon requires.
//!
//! QEMU enables the rings of a network card before it sets the features. The daemon closes the
//! connection on that: "This request should be sent only when `VHOST_USER_F_PROTOCOL_FEATURES` has
//! been negotiated" (vhost-user specification, `VHOST_USER_SET_VRING_ENABLE`). The proxy answers
//! such requests, if a reply is needed, and holds them back until SET_FEATURES: no ring can start
//! before. It forwards everything else unchanged, with a thread for each direction; guest memory
//! and the queues do not pass through it.
//!
//! Only standalone backends use it: our own frontend keeps the order.

mod order;
mod request;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use ipc::control::receive_with_several;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use nix::unistd::mkdtemp;

use crate::{fd_table, spawn_thread};
use order::Order;
use request::Request;

/// The longest payload that the proxy forwards.
const PAYLOAD_MAX_BYTES: usize = 4096;

/// Waits for the frontend, and returns a listener with a pending connection from the proxy.
pub fn behind(listener: OwnedFd) -> io::Result<OwnedFd> {
    let (frontend, _) = UnixListener::from(listener).accept()?;
    let (listener, daemon) = connection()?;
    let frontend = fd_table::above_table(frontend.into())?;
    let daemon = fd_table::above_table(daemon.into())?;
    let (to_frontend, to_daemon) = (frontend.try_clone()?, daemon.try_clone()?);
    spawn_thread::spawn("requests", move || {
        let _ = pass_requests(frontend.as_fd(), to_daemon.as_fd());
        // Let the daemon see that its frontend is gone.
        let _ = shutdown(to_daemon.as_raw_fd(), Shutdown::Both);
    })?;
    spawn_thread::spawn("replies", move || {
        let _ = pass_replies(daemon.as_fd(), to_frontend.as_fd());
        let _ = shutdown(to_frontend.as_raw_fd(), Shutdown::Both);
    })?;
    Ok(fd_table::above_table(listener.into())?)
}

/// A listener and a connection to it. The directory's mode keeps other users from connecting.
fn connection() -> io::Result<(UnixListener, UnixStream)> {
    let dir = mkdtemp(&std::env::temp_dir().join("vhost-user-XXXXXX"))?;
    let path = dir.join("socket");
    let made = UnixListener::bind(&path).and_then(|listener| {
        let stream = UnixStream::connect(&path)?;
        Ok((listener, stream))
    });
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir(&dir);
    made
}

fn pass_requests(frontend: BorrowedFd<'_>, daemon: BorrowedFd<'_>) -> io::Result<()> {
    let mut order = Order::default();
    while let Some(mut request) = Request::receive(frontend)? {
        if order.is_early(&request) {
            if let Some(answer) = request.take_answer() {
                send(frontend, &answer, &[])?;
            }
            order.keep(request);
            continue;
        }
        for request in order.after(request) {
            send(daemon, &request.bytes, &request.descriptors)?;
        }
    }
    Ok(())
}

fn pass_replies(daemon: BorrowedFd<'_>, frontend: BorrowedFd<'_>) -> io::Result<()> {
    let mut bytes = [0; PAYLOAD_MAX_BYTES];
    loop {
        let (count, descriptors) = receive_with_several(daemon, &mut bytes, MsgFlags::empty())?;
        match bytes.get(..count) {
            None | Some([]) => return Ok(()),
            Some(bytes) => send(frontend, bytes, &descriptors)?,
        }
    }
}

/// Sends all bytes, with the descriptors attached to the first.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let mut rights = if numbers.is_empty() {
        &rights[..0]
    } else {
        &rights
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let parts = [IoSlice::new(rest)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None)?;
        rest = rest.get(sent..).unwrap_or_default();
        rights = &[];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::order::{PROTOCOL_FEATURES, RESET_DEVICE};
    use super::request::{NEED_REPLY, REPLY, SET_FEATURES, SET_VRING_ENABLE, VERSION};
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    fn bytes(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        let header = [request, flags, size].map(u32::to_le_bytes).concat();
        [&header, payload].concat()
    }

    fn enable(ring: u32) -> Vec<u8> {
        bytes(
            SET_VRING_ENABLE,
            1,
            &[ring, 1].map(u32::to_le_bytes).concat(),
        )
    }

    fn features(features: u64) -> Vec<u8> {
        bytes(SET_FEATURES, 1, &features.to_le_bytes())
    }

    /// What a daemon gets of these requests, and what the frontend is answered here.
    fn passed(requests: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let (mut frontend, near) = UnixStream::pair().unwrap();
        let (far, mut daemon) = UnixStream::pair().unwrap();
        frontend.write_all(&requests.concat()).unwrap();
        frontend.shutdown(std::net::Shutdown::Write).unwrap();
        pass_requests(near.as_fd(), far.as_fd()).unwrap();
        drop((near, far));
        let (mut got, mut answered) = (Vec::new(), Vec::new());
        daemon.read_to_end(&mut got).unwrap();
        frontend.read_to_end(&mut answered).unwrap();
        (got, answered)
    }

    #[test]
    fn rings_enabled_early_are_enabled_behind_the_features() {
        let all = features(PROTOCOL_FEATURES | 1);
        let come = [
            bytes(3, 1, &[]),
            enable(0),
            enable(1),
            all.clone(),
            enable(2),
        ];
        let expected = [bytes(3, 1, &[]), all, enable(0), enable(1), enable(2)];
        assert_eq!(passed(&come), (expected.concat(), Vec::new()));
    }

    #[test]
    fn rings_enabled_after_a_reset_wait_for_the_features_again() {
        let (all, reset) = (features(PROTOCOL_FEATURES), bytes(RESET_DEVICE, 1, &[]));
        let come = [all.clone(), reset.clone(), enable(0), all.clone()];
        let expected = [all.clone(), reset, all, enable(0)];
        assert_eq!(passed(&come).0, expected.concat());
    }

    #[test]
    fn rings_enabled_early_without_protocol_features_are_enabled_by_the_features() {
        assert_eq!(passed(&[enable(0), features(1)]).0, features(1));
    }

    #[test]
    fn ring_whose_enabling_is_to_be_answered_is_answered_once() {
        let ring = [0, 1].map(u32::to_le_bytes).concat();
        let request = bytes(SET_VRING_ENABLE, VERSION | NEED_REPLY, &ring);
        let all = features(PROTOCOL_FEATURES);
        let (got, answered) = passed(&[request, all.clone()]);
        assert_eq!(got, [all, enable(0)].concat());
        assert_eq!(answered, bytes(SET_VRING_ENABLE, VERSION | REPLY, &[0; 8]));
    }

    #[test]
    fn request_too_long_ends_the_connection() {
        let (mut frontend, near) = UnixStream::pair().unwrap();
        let (far, _daemon) = UnixStream::pair().unwrap();
        let header = [1, 1, 4097_u32].map(u32::to_le_bytes).concat();
        frontend.write_all(&header).unwrap();
        assert!(pass_requests(near.as_fd(), far.as_fd()).is_err());
    }

    #[test]
    fn descriptors_pass_with_their_request() {
        let (frontend, near) = UnixStream::pair().unwrap();
        let (far, daemon) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let request = bytes(5, 1, &[0; 40]);
        send(
            frontend.as_fd(),
            &request,
            &[file.try_clone().unwrap().into()],
        )
        .unwrap();
        drop(frontend);
        pass_requests(near.as_fd(), far.as_fd()).unwrap();
        let got = Request::receive(daemon.as_fd()).unwrap().unwrap();
        assert_eq!(got.bytes, request);
        let [descriptor] = <[OwnedFd; 1]>::try_from(got.descriptors).unwrap();
        let (there, here) = (File::from(descriptor).metadata(), file.metadata());
        assert_eq!(there.unwrap().rdev(), here.unwrap().rdev());
    }

    #[test]
    fn frontend_and_daemon_talk_through_it_and_end_together() {
        let dir = mkdtemp("/tmp/relay-test-XXXXXX").unwrap();
        let path = dir.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut frontend = UnixStream::connect(&path).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let listener = UnixListener::from(behind(listener.into()).unwrap());
        let (mut daemon, _) = listener.accept().unwrap();

        frontend.write_all(&features(7)).unwrap();
        let mut got = vec![0; features(7).len()];
        daemon.read_exact(&mut got).unwrap();
        assert_eq!(got, features(7));
        daemon.write_all(b"answer").unwrap();
        let mut answer = [0; 6];
        frontend.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        drop(frontend);
        assert_eq!(daemon.read(&mut got).unwrap(), 0);
    }
}
