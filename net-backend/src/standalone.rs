// SPDX-License-Identifier: Apache-2.0
//! The NIC as a user starts it, without a supervisor.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use device_backend::health;
use device_backend::serve::Service;
use device_backend::{compat_proxy, fd_table};
use host::tap;
use ipc::fd::net;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::Nic;
use crate::device::Device;
use crate::options::Options;
use crate::serve::{self, StartParams};

/// Starts the NIC, to serve one frontend.
pub(crate) fn start(options: &Options) -> Result<Service<Device>> {
    // Inherited descriptors first: one that is opened later must not take a number that they have.
    check_numbers(options.fd, &options.device.tap_fds)?;
    let inherited = options.inherited()?;
    let taps: Vec<_> = options
        .device
        .tap_fds
        .iter()
        .map(|number| tap_inherited(*number).with_context(|| format!("--tap-fd {number}")))
        .collect::<Result<_>>()?;
    let health = health::own()?;
    let mut nic = Nic {
        mac: options.device.mac,
        mtu: options.device.mtu,
        pairs: options.device.pairs,
        queue_size: options.device.queue_size,
        uso: false,
        guard: options.device.guard.clone(),
    };
    nic.check()?;
    let taps = match &options.device.tap {
        Some(name) => tap::open(name, nic.pairs).with_context(|| format!("--tap {name:?}"))?,
        None => taps,
    };
    nic.uso = taps.first().is_some_and(|tap| tap::has_uso(tap.as_fd()));
    let taps = (net::TAP..)
        .zip(taps)
        .map(|(number, tap)| fd_table::at(number, tap));
    let taps = taps.collect::<nix::Result<_>>()?;
    let listener = options.listener(inherited)?;
    Ok(serve::start(StartParams {
        nic,
        listener: compat_proxy::behind(listener).context("cannot wait for the frontend")?,
        taps,
        state: None,
        link_up: true,
        health,
        poll_us: options.device.poll_us,
        seccomp: options.seccomp.mode(),
    })?)
}

/// Checks the numbers that the command line names, before any of them gets an owner or is moved:
/// each needs an owner of its own, and a number that is not open could become that of a moved
/// descriptor.
fn check_numbers(listener: Option<RawFd>, taps: &[RawFd]) -> Result<()> {
    let all: Vec<_> = listener.iter().chain(taps).copied().collect();
    for (at, number) in all.iter().enumerate() {
        if all[..at].contains(number) {
            bail!("--tap-fd {number}: is named twice, each queue needs a descriptor of its own");
        }
    }
    for number in taps {
        is_open(*number).with_context(|| format!("--tap-fd {number}"))?;
    }
    Ok(())
}

/// Checks that a descriptor is open and not a standard one.
#[allow(unsafe_code)]
fn is_open(number: RawFd) -> Result<()> {
    if number < 3 {
        bail!("not one of the standard descriptors");
    }
    // SAFETY: `number` is not -1; used only to ask whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let asked = fcntl(borrowed, FcntlArg::F_GETFD);
    asked.map(drop).context("no such descriptor")
}

/// Takes a queue of a tap that was open when the process started.
#[allow(unsafe_code)]
fn tap_inherited(number: RawFd) -> Result<OwnedFd> {
    is_open(number)?;
    // SAFETY: it is open (checked above) and is not one of the standard three. `check_numbers` has
    // found it open, and named once, before anything was opened or moved, so it has no owner.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    tap::check(fd.as_fd())?;
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(fd_table::above_table(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn descriptor_named_twice_or_not_open_is_told_before_any_has_an_owner() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let (a, b) = (a.as_raw_fd(), b.as_raw_fd());
        let told = |listener, taps: &[RawFd]| match check_numbers(listener, taps) {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        assert_eq!(told(Some(a), &[b]), "");
        for (listener, taps) in [(None, [a, a]), (Some(b), [a, b])] {
            let told = told(listener, &taps);
            assert!(told.contains("is named twice"), "{told}");
        }
        let missing = told(Some(a), &[b, 5000]);
        let is_named = missing.starts_with("--tap-fd 5000: no such descriptor");
        assert!(is_named, "{missing}");
        let standard = told(None, &[2]);
        assert!(standard.starts_with("--tap-fd 2: not one"), "{standard}");
    }
}
