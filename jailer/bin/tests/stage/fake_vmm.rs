// SPDX-License-Identifier: Apache-2.0
//! Takes the vmm's place in process tests: claims what a vmm claims, then does what the kernel
//! command line says, word by word. Not part of what is shipped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use ipc::control::{About, Channel, Ending, Failure, FromVmm, ToVmm};
use ipc::fd;
use ipc::health::{Crash, HealthPage};
use ipc::record::{Record as _, VmmRecord};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

struct FakeVmm {
    channel: Channel,
    health: HealthPage,
    console: File,
    ram: File,
    kernel: File,
}

fn main() {
    let claim = |number| fd::claim(number).unwrap();
    let record = VmmRecord::read(claim(fd::RECORD)).unwrap();
    let _kvm = claim(fd::vmm::KVM);
    let _initrd = record.initrd.then(|| claim(fd::vmm::INITRD));
    let mut fake = FakeVmm {
        channel: Channel::from(claim(fd::CONTROL)),
        health: HealthPage::map(claim(fd::HEALTH)).unwrap(),
        console: File::from(claim(fd::vmm::CONSOLE)),
        ram: File::from(claim(fd::vmm::GUEST_RAM)),
        kernel: File::from(claim(fd::vmm::KERNEL)),
    };
    for word in record.cmdline.split_whitespace() {
        fake.obey(word);
    }
}

impl FakeVmm {
    fn obey(&mut self, word: &str) {
        let (verb, value) = word.split_once('=').unwrap_or((word, ""));
        match verb {
            "started" => self.tell(&FromVmm::Started),
            "off" => self.end(Ending::PowerOff),
            "reboot" => self.end(Ending::Reboot),
            "panic" => self.end(Ending::Panic),
            "crash" => self.end(Ending::Crash),
            "fault" => self.end(Ending::TripleFault),
            "off-and-stay" => self.tell(&FromVmm::Ended(Ending::PowerOff)),
            "fail" => self.fail(value),
            "rubbish" => self.send(b"{\"Dance\":1}"),
            "oversize" => self.send(&[b'x'; 8192]),
            "exits" => drop(
                self.health
                    .pio_exits
                    .fetch_add(value.parse().unwrap(), Ordering::Relaxed),
            ),
            // The log may be full.
            "log" => drop(writeln!(io::stderr(), "{value}")),
            "say" => self.say(value.as_bytes()),
            "flood" => self.flood(value.parse().unwrap()),
            "ram" => self.look_at_ram(),
            "kernel" => self.read_kernel(),
            "syscall" => {
                let crash = Crash::Syscall(value.parse().unwrap());
                self.health.crash.store(crash.to_u32(), Ordering::Relaxed);
            }
            "abort" => std::process::abort(),
            "exit" => std::process::exit(value.parse().unwrap()),
            "hang" => sleep(Duration::from_secs(600)),
            "button" => self.serve(),
            "console" => self.follow_console(),
            _ => {}
        }
    }

    fn tell(&self, message: &FromVmm) {
        self.channel.send(message).unwrap();
    }

    fn send(&self, bytes: &[u8]) {
        send(self.channel.as_fd().as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        sleep(Duration::from_secs(600));
    }

    fn end(&self, ending: Ending) {
        self.tell(&FromVmm::Ended(ending));
        std::process::exit(0);
    }

    fn fail(&self, about: &str) {
        self.tell(&FromVmm::Failed(Failure {
            about: match about {
                "kernel" => Some(About::Kernel),
                "cpus" => Some(About::Cpus),
                _ => None,
            },
            reason: "is not to the fake vmm's liking".into(),
        }));
        std::process::exit(1);
    }

    /// Answers the supervisor until the power button is pressed.
    fn serve(&self) {
        loop {
            match self.channel.receive().unwrap() {
                Some(ToVmm::Pause) => self.tell(&FromVmm::Paused),
                Some(ToVmm::Resume) => self.tell(&FromVmm::Resumed),
                Some(ToVmm::Save) => self.tell(&FromVmm::NotSaved("there is no guest".into())),
                Some(ToVmm::Device(..)) => {}
                Some(ToVmm::PowerButton) | None => return,
            }
        }
    }

    /// Does what is typed on the console, until it is closed.
    fn follow_console(&mut self) {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            self.wait(PollFlags::POLLIN);
            match self.console.read(&mut byte) {
                Ok(0) => sleep(Duration::from_secs(600)),
                Ok(_) if byte[0] == b'\n' => {
                    let word = String::from_utf8(std::mem::take(&mut line)).unwrap();
                    self.obey(&word);
                }
                Ok(_) => line.push(byte[0]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn wait(&self, events: PollFlags) {
        let mut fds = [PollFd::new(self.console.as_fd(), events)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
    }

    fn say(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.console.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLOUT),
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// So many bytes in numbered lines of sixteen.
    fn flood(&mut self, len: usize) {
        for number in 0..len / 16 {
            self.say(format!("{number:015}\n").as_bytes());
        }
    }

    /// Whether anybody wrote to this memory before us.
    fn look_at_ram(&mut self) {
        let mut byte = [0];
        self.ram.read_exact_at(&mut byte, 0).unwrap();
        self.ram.write_all_at(b"x", 0).unwrap();
        let word: &[u8] = if byte[0] == 0 { b"fresh " } else { b"used " };
        self.say(word);
    }

    fn read_kernel(&mut self) {
        let mut content = String::new();
        self.kernel.read_to_string(&mut content).unwrap();
        self.say(content.as_bytes());
    }
}
