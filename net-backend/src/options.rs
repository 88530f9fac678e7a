// SPDX-License-Identifier: Apache-2.0
//! The command line of a backend that runs alone: the conventions of vhost-user backend programs
//! (vhost-user specification, "Backend programs"), and what our network cards have beyond them.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use device_backend::program::{Parsed, Seccomp};
use ipc::record::Guard;

use crate::filter::Mac;

/// What `--print-capabilities` answers (QEMU's docs/interop/vhost-user.json).
pub(crate) const CAPABILITIES: &str = r#"{"type": "net"}
"#;

/// What `--help` answers.
pub(crate) const HELP: &str = "\
Serve a tap to a virtual machine as its network card, over vhost-user.

Usage: net-backend (--socket-path PATH | --fd N) (--tap NAME | --tap-fd N...) [OPTION]...

  --socket-path PATH    listen on this socket; a stale one in its place is removed
  --fd N                listen on this inherited descriptor, a bound and listening unix socket
  --tap NAME            the tap; it is made, for as long as the process lives, if there is none
  --tap-fd N            a queue of a tap, inherited, made with tap, no_pi and vnet_hdr; once for
                        each pair of queues
  --queues N            pairs of queues with --tap, 1 to 8; 1 by default
  --queue-size N        the longest queue to accept: a power of two from 64 to 1024, the default
  --mac MAC             the MAC address, if the VMM does not know one
  --mtu N               what the guest is told, 68 to 65521
  --guard WHAT[,..]     what the guest may not send; nothing by default:
       mac              frames from another MAC address than --mac
       services         DHCP servers' packets, router advertisements, frames for switches
       ip=ADDRESS       packets and address resolution from other addresses than those named so,
                        for IPv4 and IPv6 apart
  --poll-us N           how long a queue's thread looks for work before it sleeps; 50 by default,
                        0 never. Looks that find nothing take at most 10 % of a processor.
  --seccomp MODE        what a system call outside the filter does: end the process (on, the
                        default), end it after its name was logged (log), nothing special (off)
  --print-capabilities  print what this program can do as JSON
  --version, --help

Works with every VMM that has a vhost-user-net frontend: with QEMU, for example,
  -chardev socket,id=c,path=PATH -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n
and guest memory that is shared (-object memory-backend-memfd,share=on). The process serves one
connection and ends with it.

Started by Bulkhead's jailer this process has no file system and no network but its tap, and it can be
killed and replaced while the guest runs. Alone it has the rights it was started with, less what
--seccomp takes away, and what the driver asked for on its control queue is lost when it dies.
";

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub(crate) socket_path: Option<PathBuf>,
    pub(crate) fd: Option<RawFd>,
    pub(crate) tap: Option<String>,
    pub(crate) tap_fds: Vec<RawFd>,
    pub(crate) pairs: u16,
    pub(crate) queue_size: u16,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: Option<u16>,
    pub(crate) guard: Guard,
    pub(crate) poll_us: u32,
    pub(crate) seccomp: Seccomp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket_path: None,
            fd: None,
            tap: None,
            tap_fds: Vec::new(),
            pairs: 1,
            // How long they are is the frontend's choice.
            queue_size: 1024,
            mac: None,
            mtu: None,
            guard: Guard {
                mac: false,
                services: false,
                ..Guard::default()
            },
            poll_us: 50,
            seccomp: Seccomp::On,
        }
    }
}

/// Understands the command line, without the program's name.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Parsed<Box<Options>>, String> {
    let mut options = Options::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(OsString::from(value))),
            _ => (text, None),
        };
        match name {
            "--help" | "-h" => return Ok(Parsed::Print(HELP)),
            "--version" => return Ok(Parsed::Print(concat!(env!("CARGO_PKG_VERSION"), "\n"))),
            "--print-capabilities" => return Ok(Parsed::Print(CAPABILITIES)),
            _ if !KNOWN.contains(&name) => return Err(format!("unknown argument {arg:?}")),
            _ => {}
        }
        let value = inline.or_else(|| args.next());
        options.set(name, value.ok_or(format!("{name}: a value is missing"))?)?;
    }
    options.check()?;
    Ok(Parsed::Serve(Box::new(options)))
}

/// The options that have a value.
const KNOWN: [&str; 11] = [
    "--socket-path",
    "--fd",
    "--tap",
    "--tap-fd",
    "--queues",
    "--queue-size",
    "--mac",
    "--mtu",
    "--guard",
    "--poll-us",
    "--seccomp",
];

impl Options {
    fn set(&mut self, name: &str, value: OsString) -> Result<(), String> {
        if name == "--socket-path" {
            self.socket_path = Some(value.into());
            return Ok(());
        }
        let text = value
            .into_string()
            .map_err(|value| format!("{value:?} is not text"))?;
        match name {
            "--fd" => self.fd = Some(number(name, &text)?),
            "--tap" => self.tap = Some(text),
            "--tap-fd" => self.tap_fds.push(number(name, &text)?),
            "--queues" => self.pairs = number(name, &text)?,
            "--queue-size" => self.queue_size = number(name, &text)?,
            "--mac" => self.mac = Some(text.parse().map_err(|e| format!("{name} {e}"))?),
            "--mtu" => self.mtu = Some(number(name, &text)?),
            "--guard" => add_guard(&mut self.guard, &text)?,
            "--poll-us" => self.poll_us = number(name, &text)?,
            _ => self.seccomp = text.parse()?,
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        if self.socket_path.is_some() == self.fd.is_some() {
            return Err("exactly one of --socket-path and --fd is needed".into());
        }
        if self.tap.is_some() != self.tap_fds.is_empty() {
            return Err("exactly one of --tap and --tap-fd is needed".into());
        }
        if !self.tap_fds.is_empty() {
            self.pairs = u16::try_from(self.tap_fds.len()).unwrap_or(u16::MAX);
        }
        Ok(())
    }
}

fn add_guard(guard: &mut Guard, text: &str) -> Result<(), String> {
    for part in text.split(',') {
        match part.split_once('=') {
            None if part == "mac" => guard.mac = true,
            None if part == "services" => guard.services = true,
            Some(("ip", address)) => match address.parse() {
                Ok(std::net::IpAddr::V4(address)) => guard.ipv4.push(address),
                Ok(std::net::IpAddr::V6(address)) => guard.ipv6.push(address),
                Err(_) => return Err(format!("--guard ip {address:?}: expected an IP address")),
            },
            _ => return Err(format!("--guard {part:?}: expected mac, services or ip=")),
        }
    }
    Ok(())
}

fn number<N: FromStr>(key: &str, text: &str) -> Result<N, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{key} {text:?}: expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Parsed<Box<Options>>, String> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn command_line_of_the_conventions_is_understood() {
        let line = "--fd=7 --tap-fd 8 --tap-fd 9 --mac 02:00:00:00:00:01 --mtu=9000 \
                    --guard mac,services,ip=10.0.0.5,ip=fd00::5 --queue-size 128 --poll-us 0";
        let Ok(Parsed::Serve(options)) = parse_words(line) else {
            panic!("not understood");
        };
        assert_eq!(
            (options.fd, options.pairs, options.mtu),
            (Some(7), 2, Some(9000))
        );
        assert_eq!(options.tap_fds, [8, 9]);
        assert!(options.guard.mac && options.guard.services);
        assert_eq!((options.guard.ipv4.len(), options.guard.ipv6.len()), (1, 1));
        let line = "--socket-path /s --tap tap0 --queues 4 --seccomp log";
        assert!(matches!(parse_words(line), Ok(Parsed::Serve(_))));
        let line = "--print-capabilities whatever";
        assert_eq!(parse_words(line), Ok(Parsed::Print(CAPABILITIES)));
    }

    #[test]
    fn command_line_that_makes_no_sense_is_refused() {
        for line in [
            "--tap tap0",
            "--socket-path /s",
            "--socket-path /s --fd 3 --tap tap0",
            "--socket-path /s --tap tap0 --tap-fd 3",
            "--socket-path",
            "--fd x --tap tap0",
            "--socket-path /s --tap tap0 --mac 2:0",
            "--socket-path /s --tap tap0 --guard ip=10",
            "--socket-path /s --tap tap0 --guard all",
            "--socket-path /s --tap tap0 --seccomp maybe",
            "--socket-path /s --tap tap0 stray",
        ] {
            assert!(parse_words(line).is_err(), "{line}");
        }
    }
}
