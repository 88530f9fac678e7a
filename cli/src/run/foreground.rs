// SPDX-License-Identifier: Apache-2.0
//! Running a VM in the foreground until it ends.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use spec::{Console, VmSpec};

use super::child::{self, Start};
use super::{Host, RunError};
use crate::console::{End, Proxy, wait_until};
use crate::error::Error;
use crate::escape::Wish;
use crate::signals::{self, Signals};

/// The start is over when nothing has happened for so long.
const SETTLING_MS: u16 = 500;
/// After a signal has ended the VM: if the user's terminal does not take its output for so long,
/// drop the rest.
const READER_PATIENCE_MS: u16 = 500;

/// Runs a VM; a console of `stdio` is on our standard input and output.
pub(super) fn run(spec: &VmSpec, host: Host<'_>) -> Result<u8, Error> {
    let signals = signals::take_over(&[])?;
    let (ours, its) = match spec.console {
        Console::Stdio => console_pair().map_err(RunError::Socket)?,
        _ => (None, None),
    };
    let mut child = child::start(
        spec,
        Start {
            state_dir: host.state_dir,
            api_gid: host.api_gid,
            console: its,
            bound: true,
            ..Start::default()
        },
    )?;
    let mut quit = false;
    let ended = follow(&mut child, &signals, ours, &mut quit);
    if ended.is_err() {
        // We failed, so end the VM.
        child::pass_on(&child, Signal::SIGHUP);
        let _ = child.wait();
    }
    let status = child::status(ended?)?;
    // The user ended the VM with the escape key: not an error.
    let pulled = quit && i32::from(status) == 128 + Signal::SIGHUP as i32;
    Ok(if pulled { 0 } else { status })
}

fn follow(
    child: &mut Child,
    signals: &Signals,
    console: Option<UnixStream>,
    quit: &mut bool,
) -> Result<ExitStatus, Error> {
    let mut proxy = console.map(Proxy::new).transpose()?;
    let mut ended = None;
    let (mut settled, mut signalled) = (false, false);
    loop {
        let done = proxy.as_ref().is_none_or(Proxy::is_done);
        if let (true, Some(status)) = (done, ended) {
            return Ok(status);
        }
        let patience = match (ended, settled) {
            (Some(_), _) if signalled => READER_PATIENCE_MS.into(),
            (_, false) => SETTLING_MS.into(),
            (_, true) => PollTimeout::NONE,
        };
        let Some(ends) = ready(signals, proxy.as_ref(), patience)? else {
            match ended {
                Some(status) if signalled => return Ok(status),
                _ => {
                    host::image::let_go();
                    settled = true;
                    continue;
                }
            }
        };
        for end in ends {
            if let Some(proxy) = &mut proxy
                && proxy.ready(end) == Some(Wish::Quit)
            {
                *quit = true;
                child::pass_on(child, Signal::SIGHUP);
            }
        }
        for signal in signals::received(signals) {
            signalled |= signal != Signal::SIGCHLD;
            match signal {
                Signal::SIGCHLD => ended = child.try_wait().map_err(RunError::Wait)?,
                _ if ended.is_some() => return child.wait().map_err(|e| RunError::Wait(e).into()),
                other => child::pass_on(child, other),
            }
        }
    }
}

/// Waits; returns the proxy's descriptors that are ready, or `None` on timeout.
fn ready(
    signals: &Signals,
    proxy: Option<&Proxy>,
    patience: PollTimeout,
) -> Result<Option<Vec<End>>, Error> {
    let interests = proxy.map(Proxy::interests).unwrap_or_default();
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    fds.extend(
        interests
            .iter()
            .map(|(_, fd, events)| PollFd::new(*fd, *events)),
    );
    if !wait_until(&mut fds, patience)? {
        return Ok(None);
    }
    let ends = interests.iter().zip(&fds[1..]);
    let ends = ends.filter(|(_, fd)| fd.any().unwrap_or(false));
    Ok(Some(ends.map(|((end, ..), _)| *end).collect()))
}

/// The console's first client, and the jailer's end of it, which the jailer inherits.
fn console_pair() -> Result<(Option<UnixStream>, Option<OwnedFd>), Errno> {
    let from = |e: std::io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let (ours, its) = UnixStream::pair().map_err(from)?;
    fcntl(&its, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok((Some(ours), Some(its.into())))
}
