// SPDX-License-Identifier: Apache-2.0
//! The loop: waits for clients, signals, the VM's events and the client that lets go, one after the
//! other.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::endpoints;
use crate::http::Answer;
use crate::listener::Listener;
use crate::machine::Machine;
use crate::watch::Watch;

/// The signals that end everything, and SIGCHLD.
const SIGNALS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// Blocks the signals that end us, and SIGCHLD; from now on they are read from the descriptor.
///
/// # Errors
/// The kernel's, which never come.
pub fn take_over_signals() -> nix::Result<SignalFd> {
    host::signals::reset(Signal::SIGCHLD)?;
    let mask: SigSet = SIGNALS.into_iter().collect();
    mask.thread_set_mask()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// What is waited for.
#[derive(Debug)]
pub struct Sources {
    /// From [`take_over_signals`].
    pub signals: SignalFd,
    /// The API.
    pub listener: Option<Listener>,
    /// What libvirt has made.
    pub watch: Option<Watch>,
}

/// Serves until the machine says that it is over; the status to exit with.
///
/// # Errors
/// When the kernel has no memory left to wait.
pub fn run(machine: &mut Machine, mut sources: Sources) -> nix::Result<u8> {
    loop {
        if let Some(status) = machine.exit() {
            return Ok(status);
        }
        let awake = wait(machine, &sources)?;
        let mut awake = awake.into_iter();
        if awake.next() == Some(true) {
            obey(machine, &sources.signals);
        }
        if let Some(watch) = &sources.watch
            && awake.next() == Some(true)
            && watch.is_let_go()
        {
            eprintln!("cloud-hypervisor: the client has removed its socket: ends the VM");
            let _ = machine.stop(0);
        }
        // Without events to follow this is nothing.
        machine.follow();
        if let Some(listener) = &mut sources.listener {
            let clients: Vec<_> = awake.collect();
            listener.ready(clients.get(1..).unwrap_or_default());
            serve(machine, listener);
        }
    }
}

/// Waits; which sources are ready: signals, the watch if there is one, the VM's events, the clients.
fn wait(machine: &Machine, sources: &Sources) -> nix::Result<Vec<bool>> {
    let mut fds = vec![PollFd::new(sources.signals.as_fd(), PollFlags::POLLIN)];
    if let Some(watch) = &sources.watch {
        fds.push(PollFd::new(watch.as_fd(), PollFlags::POLLIN));
    }
    let (events, interest) = match machine.follower() {
        Some(follower) => (follower.as_fd(), PollFlags::POLLIN),
        // Something that is never ready keeps the place.
        None => (sources.signals.as_fd(), PollFlags::empty()),
    };
    fds.push(PollFd::new(events, interest));
    let clients = sources.listener.iter().flat_map(Listener::interests);
    fds.extend(clients.map(|(fd, interest)| PollFd::new(fd, interest)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    Ok(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect())
}

fn obey(machine: &mut Machine, signals: &SignalFd) {
    while let Ok(Some(info)) = signals.read_signal() {
        match Signal::try_from(info.ssi_signo.cast_signed()) {
            Ok(Signal::SIGCHLD) => machine.reap(),
            _ => drop(machine.stop(0)),
        }
    }
}

/// Serves what clients have asked for, until the machine is over.
fn serve(machine: &mut Machine, listener: &mut Listener) {
    while machine.exit().is_none()
        && let Some((request, descriptors, client)) = listener.next_request()
    {
        let answer = match endpoints::find(&request) {
            Ok(action) => machine.serve(action, &request.body, descriptors),
            Err(fault) => Answer::Refused(fault),
        };
        if let Answer::Refused(fault) = &answer {
            eprintln!(
                "cloud-hypervisor: {}: {}",
                request.path.escape_debug(),
                fault.chain.join(": ")
            );
        }
        client.answer(&answer, request.keep_alive && machine.exit().is_none());
    }
    listener.forget();
}
