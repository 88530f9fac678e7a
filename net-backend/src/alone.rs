// SPDX-License-Identifier: Apache-2.0
//! The network card as a user starts it.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use backend::program::own_health;
use backend::serve::Service;
use backend::{listener, pin, relay};
use launch::fd::net;
use launch::tap;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::Nic;
use crate::device::Device;
use crate::options::Options;
use crate::serve::{self, Given};

/// Starts the network card, to serve one frontend.
pub(crate) fn start(options: Options) -> Result<Service<Device>> {
    // What was inherited first: whatever is opened later must not take a number of the table that
    // it has.
    let inherited = options.fd.map(listener::inherited).transpose()?;
    let taps: Vec<_> = options
        .tap_fds
        .iter()
        .map(|number| tap_inherited(*number).with_context(|| format!("--tap-fd {number}")))
        .collect::<Result<_>>()?;
    let health = own_health()?;
    let mut nic = Nic {
        mac: options.mac,
        mtu: options.mtu,
        pairs: options.pairs,
        queue_size: options.queue_size,
        uso: false,
        guard: options.guard,
    };
    nic.check()?;
    let taps = match &options.tap {
        Some(name) => tap::open(name, nic.pairs).with_context(|| format!("--tap {name:?}"))?,
        None => taps,
    };
    nic.uso = taps.first().is_some_and(|tap| tap::has_uso(tap.as_fd()));
    let taps = (net::TAP..)
        .zip(taps)
        .map(|(number, tap)| pin::at(number, tap));
    let taps = taps.collect::<nix::Result<_>>()?;
    let listener = match (inherited, &options.socket_path) {
        (Some(fd), _) => fd,
        (None, Some(path)) => listener::bind(path)?,
        (None, None) => bail!("--socket-path or --fd is needed"),
    };
    Ok(serve::start(Given {
        nic,
        listener: relay::behind(listener).context("cannot wait for the frontend")?,
        taps,
        state: None,
        link_up: true,
        health,
        poll_us: options.poll_us,
        seccomp: options.seccomp.mode(),
    })?)
}

/// A queue of a tap that was open when the process began.
#[allow(unsafe_code)]
fn tap_inherited(number: RawFd) -> Result<OwnedFd> {
    if number < 3 {
        bail!("not one of the standard descriptors");
    }
    // SAFETY: `number` is not -1; used only to ask whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD).context("no such descriptor")?;
    // SAFETY: it is open (checked above), is not one of the standard three, and nothing in this
    // process has opened anything yet but what was moved above the table.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    tap::check(fd.as_fd())?;
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(pin::above_table(fd)?)
}
