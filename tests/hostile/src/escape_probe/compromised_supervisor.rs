// SPDX-License-Identifier: Apache-2.0
//! A supervisor that has been taken over, at its end of the link to the jailer: in its jail, behind its
//! filter, it does what the VM's kernel command line is called.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ipc::broker::{Question, Reason, Status, ToJailer, ToSupervisor};
use ipc::control::{Channel, MESSAGE_MAX_BYTES};
use jailer::args::{self, Parsed};
use jailer::host::Host;
use jailer::inherited::Inherited;
use loadgen::random::Random;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use spec::Vm;

use crate::random_messages::text;
use crate::{rest, say};

/// How many messages one that babbles sends before it rests; a jailer reads a hundred in a second.
const BABBLE: u32 = 1500;
/// For so long one that floods asks as fast as it can.
const FLOOD: Duration = Duration::from_secs(4);
const SEED: u64 = 11;

/// Is a jailer, whose jailer is real.
pub(crate) fn jailer() -> ExitCode {
    let Ok(parsed) = args::parse(std::env::args_os().skip(1)) else {
        return ExitCode::FAILURE;
    };
    let (Ok(inherited), Parsed::Run(args)) = (Inherited::take(&parsed), &parsed) else {
        return ExitCode::FAILURE;
    };
    let host = Host::of_this_binary();
    let outcome = jailer::run(args, inherited, &host, |init, _| {
        supervisor::stand_in(init, act)
    });
    outcome.print();
    outcome.status.into()
}

fn act(link: &Channel, vm: &Vm) -> Infallible {
    match vm.cmdline.as_str() {
        "babbles" => babble(link),
        "floods" => flood(link),
        "raves" => raw(link, b"{\"Ask\":[1,{\"OpenPath\":\"/etc/shadow\"}]}"),
        "rambles" => raw(link, &[b' '; MESSAGE_MAX_BYTES + 1]),
        "hangs-up" => drop(shutdown(link.as_fd().as_raw_fd(), Shutdown::Both)),
        "lingers" => drop(link.send(&ToJailer::Ended(Status::Ok, Reason::PowerOff))),
        _ => say("supervisor has no such malice"),
    }
    rest()
}

fn raw(link: &Channel, bytes: &[u8]) {
    let _ = send(link.as_fd().as_raw_fd(), bytes, MsgFlags::empty());
}

/// Says anything at any time, with a descriptor that does not belong there, and hears no answer.
fn babble(link: &Channel) {
    let mut random = Random::new(SEED);
    let Ok((file, _)) = std::io::pipe() else {
        return say("supervisor has no pipe");
    };
    for _ in 0..BABBLE {
        let message = any(&mut random);
        let fd = match random.below(3) {
            0 => Some(file.as_fd()),
            1 => Some(link.as_fd()),
            _ => None,
        };
        while tell(link, &message, fd).is_err() {
            wait_for(link, PollFlags::POLLOUT);
        }
    }
    say("supervisor has said everything");
    end(link);
}

/// Asks as fast as it can, and counts the answers.
fn flood(link: &Channel) {
    let (begun, mut asked, mut answered) = (Instant::now(), 0_u32, 0_u32);
    while begun.elapsed() < FLOOD {
        let question = ToJailer::Ask(asked, Question::HostPid(0));
        asked += u32::from(link.send(&question).is_ok());
        while let Ok(Some(ToSupervisor::Answer(..))) = link.receive() {
            answered += 1;
        }
    }
    let ms = begun.elapsed().as_millis();
    say(&format!(
        "supervisor asked {asked} times and was answered answers={answered} ms={ms}"
    ));
    end(link);
}

/// Ends as an honest one would, when it is told to.
fn end(link: &Channel) {
    loop {
        match link.receive::<ToSupervisor>() {
            Ok(Some(ToSupervisor::Signal(_))) => break,
            Ok(None) => return,
            Ok(Some(ToSupervisor::Answer(..))) => {}
            Err(_) => wait_for(link, PollFlags::POLLIN),
        }
    }
    // The jailer reads slowly what it was flooded with: there may be no room yet.
    while tell(link, &ToJailer::Ended(Status::Ok, Reason::PowerOff), None).is_err() {
        wait_for(link, PollFlags::POLLOUT);
    }
}

fn tell(link: &Channel, message: &ToJailer, fd: Option<BorrowedFd<'_>>) -> Result<(), ()> {
    let told = match fd {
        Some(fd) => link.send_with(message, fd),
        None => link.send(message),
    };
    told.map_err(drop)
}

fn wait_for(link: &Channel, what: PollFlags) {
    let _ = poll(&mut [PollFd::new(link.as_fd(), what)], PollTimeout::NONE);
}

/// Any message but the one that says goodbye.
fn any(random: &mut Random) -> ToJailer {
    let number = u32::try_from(random.below(1 << 32)).unwrap_or(0);
    match random.below(8) {
        0 => ToJailer::Started,
        1 => ToJailer::Line(text(random)),
        _ => ToJailer::Ask(number, question(random)),
    }
}

fn question(random: &mut Random) -> Question {
    let highest = if random.below(2) == 0 { 256 } else { 4 };
    let index = u8::try_from(random.below(highest)).unwrap_or(0);
    match random.below(5) {
        0 => Question::ReopenDisk(index),
        1 => Question::ConnectForeign(index),
        3 => Question::SyncDisk(index),
        2 => Question::DiskReleased(index, random.below(u64::MAX).cast_signed()),
        _ => Question::HostPid(index),
    }
}
