// SPDX-License-Identifier: Apache-2.0
//! The command line of a standalone NIC, beyond the options that all backends have.

use std::os::fd::RawFd;

use device_backend::options::{self, DeviceOptions, Value, number, text_of};
use ipc::record::Guard;

use ipc::mac::MacAddress;

/// What `--help` prints.
const HELP: &str = "\
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
pub(crate) type Options = options::Options<NicOptions>;

/// The options for the NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicOptions {
    pub(crate) tap: Option<String>,
    pub(crate) tap_fds: Vec<RawFd>,
    pub(crate) pairs: u16,
    pub(crate) queue_size: u16,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) mtu: Option<u16>,
    pub(crate) guard: Guard,
    pub(crate) poll_us: u32,
}

impl Default for NicOptions {
    fn default() -> Self {
        Self {
            tap: None,
            tap_fds: Vec::new(),
            pairs: 1,
            // The frontend chooses the size.
            queue_size: 1024,
            mac: None,
            mtu: None,
            guard: Guard {
                mac: false,
                services: false,
                ..Guard::default()
            },
            poll_us: 50,
        }
    }
}

impl DeviceOptions for NicOptions {
    const HELP: &'static str = HELP;
    const CAPABILITIES: &'static str = "{\"type\": \"net\"}\n";

    fn set(&mut self, name: &str, value: Value<'_>) -> Result<bool, String> {
        let mut text = || text_of(value()?);
        match name {
            "--tap" => self.tap = Some(text()?),
            "--tap-fd" => self.tap_fds.push(number(name, &text()?)?),
            "--queues" => self.pairs = number(name, &text()?)?,
            "--queue-size" => self.queue_size = number(name, &text()?)?,
            "--mac" => self.mac = Some(mac(name, &text()?)?),
            "--mtu" => self.mtu = Some(number(name, &text()?)?),
            "--guard" => add_guard(&mut self.guard, &text()?)?,
            "--poll-us" => self.poll_us = number(name, &text()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&mut self) -> Result<(), String> {
        if self.tap.is_some() != self.tap_fds.is_empty() {
            return Err("exactly one of --tap and --tap-fd is needed".into());
        }
        if !self.tap_fds.is_empty() {
            self.pairs = u16::try_from(self.tap_fds.len()).unwrap_or(u16::MAX);
        }
        Ok(())
    }
}

fn mac(name: &str, text: &str) -> Result<MacAddress, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{name} {text:?}: expected six bytes like 52:54:00:12:34:56"))
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use device_backend::options::Parsed;

    use super::*;

    fn parse_words(line: &str) -> Result<Parsed<Options>, String> {
        options::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn command_line_of_the_conventions_is_understood() {
        let line = "--fd=7 --tap-fd 8 --tap-fd 9 --mac 02:00:00:00:00:01 --mtu=9000 \
                    --guard mac,services,ip=10.0.0.5,ip=fd00::5 --queue-size 128 --poll-us 0";
        let Ok(Parsed::Serve(options)) = parse_words(line) else {
            panic!("not understood");
        };
        let Options { fd, device, .. } = options;
        assert_eq!((fd, device.pairs, device.mtu), (Some(7), 2, Some(9000)));
        assert_eq!(device.tap_fds, [8, 9]);
        assert!(device.guard.mac && device.guard.services);
        assert_eq!((device.guard.ipv4.len(), device.guard.ipv6.len()), (1, 1));
        let line = "--socket-path /s --tap tap0 --queues 4 --seccomp log";
        assert!(matches!(parse_words(line), Ok(Parsed::Serve(_))));
        let line = "--print-capabilities whatever";
        assert_eq!(
            parse_words(line),
            Ok(Parsed::Print(NicOptions::CAPABILITIES))
        );
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
