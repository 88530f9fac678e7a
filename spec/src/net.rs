// SPDX-License-Identifier: Apache-2.0
//! A NIC: [`NetSpec`] as the user writes it, [`Net`] validated.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::{escaped, number, options_with, unescaped, unknown};

mod check;
mod source;

pub use check::{Forward, Net, NetGuard, NetKind, Protocol, TAP_NAME_MAX_BYTES, Tap, TapName};
pub use source::TapSource;

/// Options that can be given several times.
const LISTS: &[&str] = &["fd", "forward", "ipv4", "ipv6"];

/// A network card as it is written: `--net tap=NAME[,option]...`, `--net fd=N[,option]...` or `--net
/// user[,option]...`, or an object in `nets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// The tap that its frames go through: an existing one, or one that is made for this VM. Either
    /// this, `fd` or `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The tap that its frames go through, as descriptors that the starter of the VM has open: one for
    /// each pair of queues. Its name, state and settings are left as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fd: Vec<i32>,
    /// Whether its connections are made by a program on the host, passt, which needs no privilege.
    /// Either this, `tap` or `fd`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub user: bool,
    /// Its name; by default `net` and its number, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its MAC address; by default one that depends on the names of the VM and the device alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The longest packet the tap takes, 68 to 65521 bytes; by default as the tap has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The number of pairs of queues, 1 to 8.
    #[serde(default = "default_queues", skip_serializing_if = "is_default_queues")]
    pub queues: u32,
    /// The entries of a queue: a power of two from 64 to 1024.
    #[serde(
        default = "default_queue_size",
        skip_serializing_if = "is_default_queue_size"
    )]
    pub queue_size: u32,
    /// The bridge that the tap becomes a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// A program that is run when the tap is there, with its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<PathBuf>,
    /// A program that is run when the tap is not needed any more, with its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<PathBuf>,
    /// Whether the guest may send from any MAC address, not from the card's alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub any_mac: bool,
    /// Whether the guest may serve DHCP, advertise itself as a router, and send what switches send each
    /// other.
    #[serde(default, skip_serializing_if = "is_false")]
    pub any_service: bool,
    /// The IPv4 addresses that the guest may send from and claim by ARP; by default any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<String>,
    /// The IPv6 addresses that the guest may send from and claim by neighbour discovery; by default
    /// any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
    /// Ports of the host that lead to ports of the guest: `tcp:HOST:GUEST` or `udp:HOST:GUEST`; for
    /// `user` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<String>,
    /// Its device number on the guest's PCI bus, 1 to 24; by default the first one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references
fn is_false(flag: &bool) -> bool {
    !flag
}

fn default_queues() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references
fn is_default_queues(queues: &u32) -> bool {
    *queues == default_queues()
}

fn default_queue_size() -> u32 {
    256
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references
fn is_default_queue_size(size: &u32) -> bool {
    *size == default_queue_size()
}

impl Default for NetSpec {
    /// Neither a tap nor passt, everything else at its default.
    fn default() -> Self {
        Self {
            tap: None,
            fd: Vec::new(),
            user: false,
            id: None,
            mac: None,
            mtu: None,
            queues: default_queues(),
            queue_size: default_queue_size(),
            bridge: None,
            up: None,
            down: None,
            any_mac: false,
            any_service: false,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            forward: Vec::new(),
            slot: None,
        }
    }
}

/// The number of a descriptor.
fn descriptor(key: &str, text: &str) -> Result<i32, String> {
    let odd = |_| format!("{key} {text:?}: expected the number of a file descriptor");
    text.parse().map_err(odd)
}

impl FromStr for NetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut net = Self::default();
        for (key, value) in options_with(text, LISTS)? {
            match (key, value) {
                ("tap", Some(name)) => net.tap = Some(unescaped(name)),
                ("fd", Some(n)) => net.fd.push(descriptor(key, n)?),
                ("user", None) => net.user = true,
                ("id", Some(id)) => net.id = Some(id.into()),
                ("mac", Some(mac)) => net.mac = Some(mac.into()),
                ("mtu", Some(n)) => net.mtu = Some(number(key, n)?),
                ("queues", Some(n)) => net.queues = number(key, n)?,
                ("queue-size", Some(n)) => net.queue_size = number(key, n)?,
                ("bridge", Some(name)) => net.bridge = Some(unescaped(name)),
                ("up", Some(path)) => net.up = Some(unescaped(path).into()),
                ("down", Some(path)) => net.down = Some(unescaped(path).into()),
                ("any-mac", None) => net.any_mac = true,
                ("any-service", None) => net.any_service = true,
                ("ipv4", Some(address)) => net.ipv4.push(address.into()),
                ("ipv6", Some(address)) => net.ipv6.push(address.into()),
                ("forward", Some(ports)) => net.forward.push(ports.into()),
                ("slot", Some(n)) => net.slot = Some(number(key, n)?),
                ("user" | "any-mac" | "any-service", Some(_)) => {
                    return Err(format!("{key} takes no value"));
                }
                (
                    "tap" | "fd" | "id" | "mac" | "mtu" | "queues" | "queue-size" | "bridge" | "up"
                    | "down" | "ipv4" | "ipv6" | "forward" | "slot",
                    None,
                ) => return Err(format!("{key} needs a value")),
                _ => return Err(unknown(key, "a network card")),
            }
        }
        Ok(net)
    }
}

/// The options as text, without those at their defaults.
impl fmt::Display for NetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let other = |n: u32, default: u32| (n != default).then(|| n.to_string());
        let single = [
            ("tap", self.tap.clone()),
            ("id", self.id.clone()),
            ("mac", self.mac.clone()),
            ("mtu", self.mtu.map(|n| n.to_string())),
            ("queues", other(self.queues, default_queues())),
            ("queue-size", other(self.queue_size, default_queue_size())),
            ("bridge", self.bridge.clone()),
            ("up", path(&self.up)),
            ("down", path(&self.down)),
            ("slot", self.slot.map(|n| n.to_string())),
        ];
        let flags = [
            ("user", self.user),
            ("any-mac", self.any_mac),
            ("any-service", self.any_service),
        ];
        let fds: Vec<_> = self.fd.iter().map(i32::to_string).collect();
        let lists = [
            ("fd", &fds),
            ("ipv4", &self.ipv4),
            ("ipv6", &self.ipv6),
            ("forward", &self.forward),
        ];
        let flags = flags.iter().filter(|(_, set)| *set);
        let mut words: Vec<String> = flags.map(|(key, _)| (*key).to_string()).collect();
        let single = single
            .iter()
            .filter_map(|(key, value)| Some((*key, value.as_ref()?)));
        let lists = lists
            .iter()
            .flat_map(|(key, list)| list.iter().map(|v| (*key, v)));
        words.extend(
            single
                .chain(lists)
                .map(|(key, value)| format!("{key}={}", escaped(value))),
        );
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests;
