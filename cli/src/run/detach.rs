// SPDX-License-Identifier: Apache-2.0
//! Starting a VM detached: returns once its guest has started.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::Duration;

use host::output::Output;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    bind, getsockname, recvmsg, setsockopt, socket, sockopt::PassCred,
};
use nix::unistd::{pipe2, read};
use spec::VmSpec;

use super::child::{self, Start};
use super::{Host, RunError};
use crate::console::wait;
use crate::error::Error;
use crate::output;
use crate::signals::{self, Signals};

/// How long to wait for the user to read the jailer's output.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts a VM; returns when its guest has started, or the jailer has failed.
pub(super) fn run(spec: &VmSpec, host: Host<'_>, json: bool) -> Result<u8, Error> {
    let signals = signals::take_over(&[])?;
    let (ear, address) = ear().map_err(RunError::Socket)?;
    let flags = OFlag::O_CLOEXEC;
    let (stderr, its_stderr) = pipe2(flags).map_err(RunError::Socket)?;
    let mut child = child::start(
        spec,
        Start {
            state_dir: host.state_dir,
            api_gid: host.api_gid,
            notify: Some(address),
            stderr: Some(Stdio::from(its_stderr)),
            ..Start::default()
        },
    )?;
    match follow(&mut child, &signals, &ear, &stderr)? {
        None => {
            let name = spec.name.as_deref().unwrap_or_default();
            match json {
                true => output::print_json(&serde_json::json!({ "vm": name, "verb": "run" }))?,
                false => output::print(&format!("{name}\n"))?,
            }
            Ok(0)
        }
        Some(status) => Ok(status),
    }
}

/// Waits until the guest has started (`None`) or the jailer has exited (its status). Meanwhile
/// passes the jailer's output on to the user.
fn follow(
    child: &mut Child,
    signals: &Signals,
    ear: &OwnedFd,
    stderr: &OwnedFd,
) -> Result<Option<u8>, Error> {
    let mut speaks = true;
    let mut interrupted = None;
    loop {
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(ear.as_fd(), PollFlags::POLLIN),
        ];
        if speaks {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut fds)?;
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        let (said, told) = (is_ready(2), is_ready(1));
        if said {
            speaks = pass_on_words(stderr);
            continue;
        }
        if told && is_ready_message(ear, child.id()) {
            return Ok(None);
        }
        for signal in signals::received(signals) {
            match signal {
                Signal::SIGCHLD => {
                    if let Some(status) = child.try_wait().map_err(RunError::Wait)? {
                        while pass_on_words(stderr) {}
                        let status = child::status(status)?;
                        return Ok(Some(interrupted.unwrap_or(status)));
                    }
                }
                // A user who interrupts us does not want the VM.
                signal => {
                    interrupted = u8::try_from(128 + signal as i32).ok();
                    child::pass_on(child, Signal::SIGHUP);
                }
            }
        }
    }
}

/// Passes on the jailer's output; false at its end.
fn pass_on_words(stderr: &OwnedFd) -> bool {
    let mut chunk = [0; 4096];
    match read(stderr, &mut chunk) {
        Ok(len @ 1..) => {
            let _ = Output::of(io::stderr().as_fd()).write_within(&chunk[..len], PATIENCE);
            true
        }
        Err(Errno::EINTR) => true,
        Ok(_) | Err(_) => false,
    }
}

/// A socket in the abstract namespace, and its address as sd_notify(3) writes it.
fn ear() -> Result<(OwnedFd, OsString), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ear = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    setsockopt(&ear, PassCred, &true)?;
    // Without an address, the kernel chooses an unused one.
    bind(ear.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address: UnixAddr = getsockname(ear.as_raw_fd())?;
    let name = address.as_abstract().ok_or(Errno::EADDRNOTAVAIL)?;
    let name = std::str::from_utf8(name).map_err(|_| Errno::EADDRNOTAVAIL)?;
    Ok((ear, format!("@{name}").into()))
}

/// Whether the jailer says that the guest has started. Every process can send to an abstract
/// address, so check the credentials, for which the kernel vouches.
fn is_ready_message(ear: &OwnedFd, jailer: u32) -> bool {
    let mut text = [0; 256];
    let mut ancillary = nix::cmsg_space!(UnixCredentials);
    let mut iov = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(ear.as_raw_fd(), &mut iov, Some(&mut ancillary), flags);
    let Ok(message) = message else {
        return false;
    };
    // There is room for credentials only: the kernel closes attached descriptors.
    let Ok(mut controls) = message.cmsgs() else {
        return false;
    };
    let vouched = controls.any(|control| {
        matches!(control, ControlMessageOwned::ScmCredentials(sender)
            if u32::try_from(sender.pid()) == Ok(jailer))
    });
    let len = message.bytes;
    let mut lines = text[..len.min(text.len())].split(|&b| b == b'\n');
    vouched && lines.any(|line| line == b"READY=1")
}
