// SPDX-License-Identifier: Apache-2.0
//! `escape-probe`: executed in the place of a process of ours, in its jail, with its descriptors. It does
//! none of the work and tries what a compromised process would: first every system call there is,
//! then, once a tracer has switched the filters off, what the rest of the jail must refuse alone.
//!
//! Its argv[0] is the role it plays; `escape-probe supervisor` enters the jail of a supervisor itself. What
//! it finds is on the log, a line each: `PROBE role calls filter: name…` are the calls that a filter
//! let through, `PROBE role reach what: granted` or an error tells what became of the rest.
//!
//! Executed in the place of the jailer it is one with another supervisor: [`compromised_supervisor`].
//!
//! A vmm whose kernel command line asks for random messages, or a backend whose device bears the name of some
//! malice, does that instead: [`random_messages`], [`compromised_backend`].

mod arch;
mod calls;
mod compromised_backend;
mod compromised_supervisor;
mod filters;
mod memory;
mod random_messages;
mod reach;

use std::convert::Infallible;
use std::process::ExitCode;

use ipc::control::{Channel, FromBackend, FromVmm};
use ipc::fd;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let role = args.next().unwrap_or_default();
    if role.ends_with("/jailer") {
        return compromised_supervisor::jailer();
    }
    if args.next().as_deref() != Some("supervisor") {
        if let Some(malice) = compromised_backend::asked(&role) {
            return compromised_backend::serve(&role, malice);
        }
        greet(&role);
        probe(&role);
    }
    match jailer::in_place_of_a_supervisor(supervisor::self_test_with_filter, || {
        probe("supervisor")
    }) {
        Ok(status) => eprintln!("escape-probe: the supervisor's fake vmm ended: {status:?}"),
        Err(error) => eprintln!("escape-probe: {error}"),
    }
    ExitCode::FAILURE
}

/// Says what the supervisor waits for.
fn greet(role: &str) {
    let Ok(control) = fd::claim(fd::CONTROL).map(Channel::from) else {
        return;
    };
    let _ = match role {
        "vmm" => control.send(&FromVmm::Started),
        _ => control.send(&FromBackend::Serving),
    };
    if let ("vmm", Some((count, seed))) = (role, random_messages::requested()) {
        random_messages::send(&control, count, seed);
        say("vmm has said everything");
        rest();
    }
    // It stays open: without it, we would be gone.
    std::mem::forget(control);
}

fn probe(role: &str) -> Infallible {
    for (name, filter) in filters::of(role) {
        let through = calls::let_through(filter);
        let names: Vec<&str> = through.iter().map(String::as_str).collect();
        say(&format!("{role} calls {name}: {}", names.join(" ")));
    }
    say(&format!(
        "{role} other entries: {}",
        calls::other_entries().join(" ")
    ));
    say(&format!("{role} waits"));
    wait_for_signal();
    for (what, outcome) in reach::everywhere(role) {
        let outcome = match outcome {
            Ok(()) => "granted".to_owned(),
            Err(errno) => format!("{errno:?}"),
        };
        say(&format!("{role} reach {what}: {outcome}"));
    }
    say(&format!("{role} done"));
    rest()
}

fn rest() -> ! {
    loop {
        let _ = poll(&mut [], PollTimeout::NONE);
    }
}

/// A line of its own, even if others write to the same log.
fn say(line: &str) {
    let line = format!("PROBE {line}\n");
    let _ = nix::unistd::write(std::io::stderr(), line.as_bytes());
}

#[allow(unsafe_code)]
fn wait_for_signal() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = SigHandler::Handler(nothing);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    let handled = unsafe { sigaction(Signal::SIGUSR1, &action) };
    if handled.is_ok() {
        while poll(&mut [], PollTimeout::NONE).is_ok() {}
    }
}
