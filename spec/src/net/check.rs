// SPDX-License-Identifier: Apache-2.0
//! Validates NICs.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use ipc::slot::DeviceSlot;

use super::NetSpec;
use super::source::TapSource;
use crate::device::DeviceId;
use crate::{MacAddress, SpecError, mac};

/// The longest name of an interface, in bytes: IFNAMSIZ, less its NUL.
pub const TAP_NAME_MAX_BYTES: usize = 15;
/// The most pairs of queues.
pub(super) const PAIRS_MAX: u32 = 8;
/// From the smallest MTU that IPv4 allows to what fits into the longest frame of a tap.
const MTU: std::ops::RangeInclusive<u32> = 68..=65521;

/// A NIC, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// Its name.
    pub id: DeviceId,
    /// Its MAC address, if the user gave it one.
    mac: Option<MacAddress>,
    /// What its frames go through.
    pub kind: NetKind,
    /// Its place on the guest's PCI bus, which no other device has.
    pub slot: DeviceSlot,
}

/// What a NIC's frames go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetKind {
    /// Through a tap.
    Tap(Tap),
    /// passt, which forwards these ports of the host to the guest.
    User(Vec<Forward>),
}

/// A tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Where it comes from.
    pub source: TapSource,
    /// Its MTU, if it is to be changed.
    pub mtu: Option<u16>,
    /// The pairs of queues, 1 to 8.
    pub pairs: u16,
    /// The entries of a queue: a power of two from 64 to 1024.
    pub queue_size: u16,
    /// The bridge that it becomes a port of.
    pub bridge: Option<TapName>,
    /// The program to run once the tap exists.
    pub up: Option<PathBuf>,
    /// The program to run when the tap is not needed any more.
    pub down: Option<PathBuf>,
    /// What the guest may not send.
    pub guard: NetGuard,
}

/// What a guest may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetGuard {
    /// From any MAC address, not only from the NIC's.
    pub any_mac: bool,
    /// DHCP offers, router advertisements and control frames of switches.
    pub any_service: bool,
    /// From these IPv4 addresses; from any if there are none.
    pub ipv4: Vec<Ipv4Addr>,
    /// From these IPv6 addresses; from any if there are none.
    pub ipv6: Vec<Ipv6Addr>,
}

/// The name of an interface: 1 to 15 printable ASCII characters, none of them `/`, `%` or `:`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TapName(String);

impl TapName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TapName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'%' | b':');
        match text {
            "" => Err("must name an interface".into()),
            "." | ".." => Err("is no name of an interface".into()),
            _ if text.len() > TAP_NAME_MAX_BYTES => Err(format!(
                "must be at most {TAP_NAME_MAX_BYTES} characters long"
            )),
            _ if !text.bytes().all(plain) => Err(
                "must have no slash, percent sign, colon, space or other special character".into(),
            ),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that is forwarded to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.parse() {
            Ok(port @ 1..=u16::MAX) if text.bytes().all(|b| b.is_ascii_digit()) => Some(port),
            _ => None,
        };
        let parts: Vec<_> = text.split(':').collect();
        let forward = match parts[..] {
            ["tcp", host, guest] => Some((Protocol::Tcp, host, guest)),
            ["udp", host, guest] => Some((Protocol::Udp, host, guest)),
            _ => None,
        };
        let forward = forward.and_then(|(protocol, host, guest)| {
            Some(Self {
                protocol,
                host: port(host)?,
                guest: port(guest)?,
            })
        });
        forward.ok_or_else(|| {
            "expected tcp:HOST:GUEST or udp:HOST:GUEST, with ports from 1 to 65535".into()
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}:{}:{}", self.host, self.guest)
    }
}

impl Net {
    /// Checks the NIC with this number, which gets `slot`.
    pub(crate) fn check(
        number: usize,
        spec: &NetSpec,
        slot: DeviceSlot,
    ) -> Result<Self, SpecError> {
        let id = DeviceId::given_or("net.id", spec.id.clone(), "net", number)?;
        let mac = spec.mac.as_deref().map(|text| {
            let refused = |reason: String| SpecError::new("net.mac", text, reason);
            mac::of_nic(text).map_err(refused)
        });
        let mac = mac.transpose()?;
        let kind = match (&spec.tap, &spec.fd[..], spec.user) {
            (Some(name), [], false) => {
                let source = TapSource::Named(parsed("net.tap", name)?);
                NetKind::Tap(check_tap(source, spec)?)
            }
            (None, [_, ..], false) => {
                let source = TapSource::inherited(spec)?;
                NetKind::Tap(check_tap(source, spec)?)
            }
            (None, [], true) => NetKind::User(check_user(spec)?),
            (None, [], false) => {
                let reason = "is neither tap=NAME, fd=N nor user";
                return Err(SpecError::new("net", id, reason));
            }
            (Some(tap), ..) => {
                let reason = "is given beside fd or user: a card has one of them";
                return Err(SpecError::new("net.tap", tap, reason));
            }
            (None, [fd, ..], true) => {
                let reason = "is given beside user: a card has one of them";
                return Err(SpecError::new("net.fd", fd, reason));
            }
        };
        Ok(Self {
            id,
            mac,
            kind,
            slot,
        })
    }

    /// The NIC's MAC address in a VM of this name.
    pub fn mac(&self, vm: &str) -> MacAddress {
        let derived = || mac::derived(vm, self.id.as_str());
        self.mac.unwrap_or_else(derived)
    }

    /// Checks the NICs of a VM against each other.
    pub(crate) fn check_all(nets: &[Self]) -> Result<(), SpecError> {
        let (mut macs, mut taps, mut ports) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut fds = HashSet::new();
        let twice = |field, value: &dyn fmt::Display| {
            Err(SpecError::new(field, value, "is that of another card, too"))
        };
        for net in nets {
            match &net.mac {
                Some(mac) if !macs.insert(mac) => return twice("net.mac", mac),
                _ => {}
            }
            match &net.kind {
                NetKind::Tap(tap) => match &tap.source {
                    TapSource::Named(name) if !taps.insert(name) => return twice("net.tap", name),
                    TapSource::Named(_) => {}
                    TapSource::Inherited(all) => {
                        if let Some(fd) = all.iter().find(|fd| !fds.insert(**fd)) {
                            return Err(SpecError::new("net.fd", fd, "is given twice"));
                        }
                    }
                },
                NetKind::User(forwards) => {
                    for forward in forwards {
                        if !ports.insert((forward.protocol, forward.host)) {
                            let reason = "forwards a port of the host a second time";
                            return Err(SpecError::new("net.forward", forward, reason));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn parsed<T: FromStr<Err = String>>(field: &'static str, text: &str) -> Result<T, SpecError> {
    text.parse()
        .map_err(|reason: String| SpecError::new(field, text, reason))
}

fn check_tap(source: TapSource, spec: &NetSpec) -> Result<Tap, SpecError> {
    if let Some(forward) = spec.forward.first() {
        return Err(SpecError::new("net.forward", forward, "is for user only"));
    }
    let mtu = match spec.mtu {
        Some(mtu) if !MTU.contains(&mtu) => {
            let reason = format!("must be {} to {}", MTU.start(), MTU.end());
            return Err(SpecError::new("net.mtu", mtu, reason));
        }
        mtu => mtu.and_then(|mtu| u16::try_from(mtu).ok()),
    };
    let queues = match &source {
        TapSource::Named(_) => spec.queues,
        TapSource::Inherited(fds) => u32::try_from(fds.len()).unwrap_or(u32::MAX),
    };
    let pairs = match u16::try_from(queues) {
        Ok(pairs) if (1..=PAIRS_MAX).contains(&queues) => pairs,
        _ => {
            let reason = format!("must be 1 to {PAIRS_MAX}");
            return Err(SpecError::new("net.queues", spec.queues, reason));
        }
    };
    let queue_size = match u16::try_from(spec.queue_size) {
        Ok(size) if size.is_power_of_two() && (64..=1024).contains(&size) => size,
        _ => {
            let reason = "must be a power of two from 64 to 1024";
            return Err(SpecError::new("net.queue-size", spec.queue_size, reason));
        }
    };
    for (field, script) in [("net.up", &spec.up), ("net.down", &spec.down)] {
        if script
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty())
        {
            return Err(SpecError::new(field, "", "must name a program"));
        }
    }
    let bridge = spec.bridge.as_ref();
    Ok(Tap {
        source,
        mtu,
        pairs,
        queue_size,
        bridge: bridge.map(|name| parsed("net.bridge", name)).transpose()?,
        up: spec.up.clone(),
        down: spec.down.clone(),
        guard: NetGuard {
            any_mac: spec.any_mac,
            any_service: spec.any_service,
            ipv4: addresses("net.ipv4", &spec.ipv4)?,
            ipv6: addresses("net.ipv6", &spec.ipv6)?,
        },
    })
}

fn addresses<T: FromStr>(field: &'static str, texts: &[String]) -> Result<Vec<T>, SpecError> {
    let parse = |text: &String| {
        let odd = |_| SpecError::new(field, text, "is no such address");
        text.parse().map_err(odd)
    };
    texts.iter().map(parse).collect()
}

fn check_user(spec: &NetSpec) -> Result<Vec<Forward>, SpecError> {
    let default = NetSpec::default();
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let number = |n: u32, default: u32| (n != default).then(|| n.to_string());
    for (field, value) in [
        ("net.mtu", spec.mtu.map(|mtu| mtu.to_string())),
        ("net.queues", number(spec.queues, default.queues)),
        (
            "net.queue-size",
            number(spec.queue_size, default.queue_size),
        ),
        ("net.bridge", spec.bridge.clone()),
        ("net.up", path(&spec.up)),
        ("net.down", path(&spec.down)),
        ("net.any-mac", spec.any_mac.then(|| "true".into())),
        ("net.any-service", spec.any_service.then(|| "true".into())),
        ("net.ipv4", spec.ipv4.first().cloned()),
        ("net.ipv6", spec.ipv6.first().cloned()),
    ] {
        if let Some(value) = value {
            return Err(SpecError::new(field, value, "is for tap only"));
        }
    }
    let forwards = spec.forward.iter();
    forwards.map(|text| parsed("net.forward", text)).collect()
}
