// SPDX-License-Identifier: Apache-2.0
//! Control messages: whatever a vmm, a backend, a supervisor or a jailer sends is one message, or
//! refused; and what comes behind it is received all the same.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use ipc::broker::{ToJailer, ToSupervisor};
use ipc::control::{Channel, FromBackend, FromVmm, ToBackend, ToVmm};
use nix::sys::socket::{MsgFlags, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn run(data: &[u8]) {
    let (kind, message) = data.split_first().map_or((0, data), |(k, m)| (*k, m));
    match kind % 6 {
        0 => exchange::<FromVmm>(message),
        1 => exchange::<ToVmm>(message),
        2 => exchange::<FromBackend>(message),
        3 => exchange::<ToBackend>(message),
        4 => exchange::<ToJailer>(message),
        _ => exchange::<ToSupervisor>(message),
    }
}

fn exchange<M: Serialize + DeserializeOwned + PartialEq + Debug>(message: &[u8]) {
    let (ours, theirs) = Channel::pair().unwrap();
    if message.is_empty() {
        return;
    }
    let sent = send(theirs.as_fd().as_raw_fd(), message, MsgFlags::MSG_DONTWAIT);
    if sent.is_err() {
        return;
    }
    theirs.send(&ToVmm::Pause).unwrap();
    let received = ours.receive::<M>();
    let (next, fd) = ours.receive_with::<ToVmm>().unwrap().unwrap();
    assert!(next == ToVmm::Pause && fd.is_none());
    let Ok(Some(received)) = received else { return };
    if theirs.send(&received).is_ok() {
        assert_eq!(ours.receive::<M>().unwrap().unwrap(), received);
    }
}
