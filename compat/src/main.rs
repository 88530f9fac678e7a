// SPDX-License-Identifier: Apache-2.0
//! `cloud-hypervisor`: see the library.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use compat::args::{Args, Parsed, Place, Vm, parse};
use compat::endpoints::Action;
use compat::http::Answer;
use compat::inherited::own;
use compat::listener::Listener;
use compat::machine::{Machine, Manner};
use compat::monitor::Monitor;
use compat::serve::{Sources, run, take_over_signals};
use compat::watch::Watch;
use spec::VmName;

fn main() -> ExitCode {
    let status = match parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Show(text)) => {
            print!("{text}");
            Ok(0)
        }
        Ok(Parsed::Run(args)) => live(&args).map_err(|error| chain(error.as_ref())),
        Err(error) => Err(error),
    };
    compat::leave_terminal();
    match status {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("cloud-hypervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

fn live(args: &Args) -> Result<u8, Box<dyn std::error::Error>> {
    // Before anything is opened: a number that is not inherited could become that of something of ours.
    let (event_fd, api_fd) = (inherited(&args.event_monitor), inherited(&args.api_socket));
    let taps = args.vm.as_ref().map(taps);
    let monitor = monitor(args.event_monitor.as_ref(), event_fd)?;
    if let Some(path) = &args.log_file {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|e| format!("--log-file {}: {e}", path.display()))?;
        nix::unistd::dup2_stderr(file)?;
    }
    // Of libvirt's socket and pipe, which it removes when it lets go.
    let mut made = Vec::new();
    let (listener, socket) = match (&args.api_socket, api_fd) {
        (Some(Place::Path(path)), _) => (Some(Listener::bind(path)?), Some(path.clone())),
        (_, Some(fd)) => {
            let taken = fd.and_then(Listener::of);
            let (listener, path) =
                taken.map_err(|e| format!("--api-socket: no listening socket: {e}"))?;
            made.extend(path.clone());
            if let Some(Place::Path(fifo)) = &args.event_monitor {
                made.push(fifo.clone());
            }
            (Some(listener), path)
        }
        (_, None) => (None, None),
    };
    let watch = match made.is_empty() {
        true => None,
        false => Some(Watch::new(made)?),
    };
    let sources = Sources {
        signals: take_over_signals()?,
        listener,
        watch,
    };
    let manner = Manner {
        name: name(socket.as_deref()),
        asks_guest: matches!(args.api_socket, Some(Place::Fd(_))),
        stays: args.no_shutdown,
    };
    let mut machine = Machine::new(manner, monitor);
    if let (Some(vm), Some(taps)) = (&args.vm, taps) {
        boot(&mut machine, vm, taps?)?;
    }
    let status = run(&mut machine, sources);
    Ok(status?)
}

/// What the VM is called: libvirt's socket has the domain's name before `-socket`.
fn name(socket: Option<&Path>) -> VmName {
    let file = socket
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let domain = file.and_then(|file| file.strip_suffix("-socket"));
    let named = domain.and_then(|domain| domain.parse().ok());
    named.unwrap_or_else(|| own_name(std::process::id()))
}

#[allow(clippy::expect_used)] // letters, a dash and digits are a name
fn own_name(pid: u32) -> VmName {
    format!("ch-{pid}").parse().expect("a VM's name")
}

/// The descriptor that the command line names, if it names one.
fn inherited(place: &Option<Place>) -> Option<io::Result<OwnedFd>> {
    match place {
        Some(Place::Fd(number)) => Some(own(*number)),
        Some(Place::Path(_)) | None => None,
    }
}

/// The queues of each card's tap.
fn taps(vm: &Vm) -> Result<Vec<Vec<OwnedFd>>, String> {
    let of = |number: &i32| own(*number).map_err(|e| format!("--net fd={number}: {e}"));
    let cards = vm.nets.iter();
    cards
        .map(|(_, numbers)| numbers.iter().map(of).collect())
        .collect()
}

/// Before all else that can fail: see [`Monitor::open`].
fn monitor(place: Option<&Place>, fd: Option<io::Result<OwnedFd>>) -> Result<Monitor, String> {
    let opened = match (place, fd) {
        (Some(Place::Path(path)), _) => Monitor::open(path),
        (_, Some(fd)) => fd.and_then(Monitor::inherited),
        (_, None) => return Ok(Monitor::none()),
    };
    opened.map_err(|error| format!("--event-monitor: {error}"))
}

/// The VM of the command line: what clients would do by three requests.
fn boot(
    machine: &mut Machine,
    vm: &Vm,
    taps: Vec<Vec<OwnedFd>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let document = serde_json::to_vec(&vm.document)?;
    succeed(machine.serve(Action::Create, &document, Vec::new()))?;
    for ((net, _), fds) in vm.nets.iter().zip(taps) {
        succeed(machine.serve(Action::AddNet, &serde_json::to_vec(net)?, fds))?;
    }
    succeed(machine.serve(Action::Boot, b"", Vec::new()))
}

fn succeed(answer: Answer) -> Result<(), Box<dyn std::error::Error>> {
    match answer {
        Answer::Refused(fault) => Err(fault.chain.join(": ").into()),
        Answer::Done | Answer::Json(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_is_called_as_its_domain_or_by_our_number() {
        let of = |path: &str| name(Some(Path::new(path))).to_string();
        assert_eq!(of("/run/libvirt/ch/web-socket"), "web");
        for path in ["/run/x/clh-api.sock", "/run/-socket", "/run/a b-socket"] {
            assert!(of(path).starts_with("ch-"), "{path}");
        }
    }
}
