// SPDX-License-Identifier: Apache-2.0
//! `bulkhead` on a terminal: what it does to it, and that it puts it back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod stage;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags, Termios, tcgetattr};
use stage::{Running, Stage, eventually};

struct Terminal {
    user: File,
    /// Kept open: its mode and flags are looked at.
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn new() -> Self {
        let pty = openpty(None, None).unwrap();
        Self {
            before: tcgetattr(&pty.slave).unwrap(),
            user: File::from(pty.master),
            line: pty.slave,
        }
    }

    /// Runs a command on this terminal.
    fn run(&self, mut command: std::process::Command) -> Running {
        let line = || self.line.try_clone().unwrap();
        command.stdin(line()).stdout(line());
        Running(command.spawn().unwrap())
    }

    fn is_raw(&self) -> bool {
        let mode = tcgetattr(&self.line).unwrap();
        !mode
            .local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn until_raw(&self) {
        eventually(|| self.is_raw().then_some(()));
    }

    /// Fills it, so that there is no room for what a command says. The kernel makes a little room once
    /// more when it moves what was written to the reader's side, and wakes no writer for that.
    fn fill(&self) {
        let path = format!("/proc/self/fd/{}", self.line.as_raw_fd());
        let mut options = File::options();
        let options = options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut line = options.open(path).unwrap();
        eventually(|| {
            while line.write(b"x").is_ok() {}
            let mut fds = [PollFd::new(self.line.as_fd(), PollFlags::POLLOUT)];
            (poll(&mut fds, PollTimeout::from(50_u8)).unwrap() == 0).then_some(())
        });
    }

    fn expect(&mut self, text: &str) {
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.ends_with(text) {
            let mut fds = [PollFd::new(self.user.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap();
            assert_eq!(ready, 1, "{text:?} does not come: {seen:?}");
            self.user.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
    }

    fn assert_as_before(&self) {
        let now = tcgetattr(&self.line).unwrap();
        assert_eq!(settings(&now), settings(&self.before));
        let flags = fcntl(self.line.as_fd(), FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    }
}

/// What Linux keeps of a terminal: of the C libraries' 32 control characters its first 19, and no speeds.
fn settings(mode: &Termios) -> (InputFlags, OutputFlags, ControlFlags, LocalFlags, &[u8]) {
    let characters = &mode.control_chars[..19];
    let (input, output) = (mode.input_flags, mode.output_flags);
    (
        input,
        output,
        mode.control_flags,
        mode.local_flags,
        characters,
    )
}

#[test]
fn terminal_is_raw_while_the_vm_runs_and_as_before_after() {
    let stage = Stage::new();
    let mut terminal = Terminal::new();
    let vm = terminal.run(stage.run("started say=login: console", &[]));
    terminal.until_raw();
    terminal.expect("login:");
    terminal.user.write_all(b"say=typed\n").unwrap();
    terminal.expect("typed");
    let flags = fcntl(terminal.line.as_fd(), FcntlArg::F_GETFL).unwrap();
    assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    terminal.user.write_all(b"off\n").unwrap();
    vm.wait().assert_told(0, &[]);
    terminal.assert_as_before();
}

#[test]
fn window_of_another_size_ends_nothing() {
    let stage = Stage::new();
    let started = stage.start("started say=up console", &["--detach"]);
    started.wait().assert_told(0, &[]);
    let mut terminal = Terminal::new();
    let console = terminal.run(stage.bulkhead(&["console", "vm"]));
    terminal.until_raw();
    console.signal(Signal::SIGWINCH);
    terminal.user.write_all(b"say=still there\n").unwrap();
    terminal.expect("still there");
    terminal.user.write_all(b"\x01x").unwrap();
    console.wait().assert_told(0, &[]);
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn escape_ends_the_vm_and_restores_the_terminal() {
    let stage = Stage::new();
    let mut terminal = Terminal::new();
    let vm = terminal.run(stage.run("started say=up hang", &[]));
    terminal.expect("up");
    terminal.user.write_all(b"\x01h").unwrap();
    terminal.expect("Ctrl-a x: leave");
    terminal.user.write_all(b"\x01x").unwrap();
    vm.wait().assert_told(0, &[]);
    terminal.assert_as_before();
    stage.assert_clean();
}

#[test]
fn terminal_is_restored_when_a_signal_or_a_failure_ends_the_vm() {
    let stage = Stage::new();
    for (signal, status) in [(Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)] {
        let terminal = Terminal::new();
        let vm = terminal.run(stage.run("started hang", &[]));
        terminal.until_raw();
        vm.signal(signal);
        vm.wait().assert_told(status, &[]);
        terminal.assert_as_before();
    }
    let terminal = Terminal::new();
    let vm = terminal.run(stage.run("fail=kernel", &[]));
    vm.wait().assert_told(1, &["kernel"]);
    terminal.assert_as_before();
}

#[test]
fn escape_on_an_attached_console_detaches_and_the_vm_goes_on() {
    let stage = Stage::new();
    let started = stage.start("started say=up console", &["--detach"]);
    started.wait().assert_told(0, &[]);
    for word in ["one", "two"] {
        let mut terminal = Terminal::new();
        let console = terminal.run(stage.bulkhead(&["console", "vm"]));
        terminal.until_raw();
        let line = format!("say={word}\n");
        terminal.user.write_all(line.as_bytes()).unwrap();
        terminal.expect(word);
        terminal.user.write_all(b"\x01x").unwrap();
        console.wait().assert_told(0, &[]);
        terminal.assert_as_before();
    }
    assert_eq!(stage.inspect().unwrap()["state"], "running");
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

/// More than a terminal holds, of a guest that never stops.
const ENDLESS: &str = "started flood=100000000000";

#[test]
fn signal_ends_a_vm_whose_terminal_nobody_reads() {
    let stage = Stage::new();
    for (signals, status) in [
        (&[Signal::SIGHUP][..], 129),
        (&[Signal::SIGQUIT], 131),
        (&[Signal::SIGTERM, Signal::SIGTERM], 143),
        (&[Signal::SIGINT, Signal::SIGINT], 130),
    ] {
        let terminal = Terminal::new();
        let vm = terminal.run(stage.run(ENDLESS, &[]));
        stage.reach("running");
        terminal.fill();
        for signal in signals {
            vm.signal(*signal);
            if signals.len() > 1 {
                eventually(|| {
                    stage
                        .inspect()
                        .is_none_or(|i| i["state"] == "stopping")
                        .then_some(())
                });
            }
        }
        vm.wait().assert_told(status, &[]);
        terminal.assert_as_before();
        stage.assert_clean();
    }
}

#[test]
fn signal_ends_a_console_and_top_whose_terminal_nobody_reads() {
    let stage = Stage::new();
    stage
        .start(ENDLESS, &["--detach"])
        .wait()
        .assert_told(0, &[]);

    let terminal = Terminal::new();
    let mut console = terminal.run(stage.bulkhead(&["console", "vm"]));
    terminal.until_raw();
    assert_eq!(console.0.try_wait().unwrap(), None);
    terminal.fill();
    console.signal(Signal::SIGTERM);
    console.wait().assert_told(0, &[]);
    terminal.assert_as_before();

    let terminal = Terminal::new();
    let top = terminal.run(stage.bulkhead(&["top"]));
    terminal.until_raw();
    terminal.fill();
    // It draws once a second.
    std::thread::sleep(Duration::from_millis(1500));
    top.signal(Signal::SIGTERM);
    top.wait().assert_told(0, &[]);

    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn complaint_on_a_terminal_that_nobody_reads_holds_nothing_up() {
    let stage = Stage::new();
    let terminal = Terminal::new();
    terminal.fill();
    let line = || terminal.line.try_clone().unwrap();
    for (mut command, status) in [
        (stage.run("fail=kernel", &[]), 1),
        (stage.run("fail=kernel", &["--detach"]), 1),
        (stage.bulkhead(&["stop", "nothing"]), 4),
    ] {
        command.stdin(line()).stdout(line()).stderr(line());
        let ended = Running(command.spawn().unwrap()).wait();
        assert_eq!(ended.status, Some(status));
        stage.assert_clean();
    }
}
