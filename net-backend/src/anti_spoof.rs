// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send, so that tenants who share a network cannot impersonate each other,
//! the router or the switches: frames with another MAC address, packets with another IP address,
//! DHCP offers, router advertisements, and the control frames of switches.
//!
//! `packet` parses a copy of the frame's beginning. The backend sends this copy, so the guest
//! cannot change it after the check. A frame with more headers than were copied is dropped. After
//! the check the kernel, or a NIC, still writes into the frame if the virtio header asks for a
//! checksum or for segments: `offload` allows that only where it cannot overwrite anything that
//! was checked here.
//!
//! With every check switched off a frame is not parsed: only [`crate::header`] and the kernel
//! itself check its offloads.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicU64;

use ipc::health::Drops;
use ipc::record::Guard;

use ipc::mac::MacAddress;

mod ipv4;
mod ipv6;
mod link_control;
mod offload;
pub mod packet;

use packet::{Frame, Packet};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
/// The ports of DHCP for IPv4 (RFC 2131 §4.1) and for IPv6 (RFC 8415 §7.2).
const DHCP: DhcpPorts = DhcpPorts {
    server: 67,
    client: 68,
};
const DHCPV6: DhcpPorts = DhcpPorts {
    server: 547,
    client: 546,
};

#[derive(Debug, Clone, Copy)]
struct DhcpPorts {
    server: u16,
    client: u16,
}

impl DhcpPorts {
    /// Refuses what only a server sends. Clients accept an answer from any port, and never talk to
    /// each other. A later fragment has no ports; its receiver cannot reassemble it without the
    /// first one.
    fn check(self, datagram: &[u8]) -> Result<(), Violation> {
        let ports = u16_at(datagram, 0).zip(u16_at(datagram, 2));
        let (source, destination) = ports.ok_or(Violation::Evasive)?;
        if source == self.server || destination == self.client {
            return Err(Violation::Dhcp);
        }
        Ok(())
    }
}

/// Why a frame is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The source MAC address.
    SourceMac,
    /// The source IP address.
    SourceIp,
    /// ARP or neighbour discovery about another host.
    Neighbour,
    /// A DHCP server's packet.
    Dhcp,
    /// A router's advertisement or redirect.
    Router,
    /// It cannot be parsed far enough.
    Evasive,
    /// The kernel would write where it must not, or segment the frame as something it is not.
    Checksum,
    /// A control frame of switches.
    LinkControl,
}

impl Violation {
    /// The counter for this violation.
    pub fn counter(self, drops: &Drops) -> &AtomicU64 {
        match self {
            Self::SourceMac => &drops.source_mac,
            Self::SourceIp => &drops.source_ip,
            Self::Neighbour => &drops.neighbour,
            Self::Dhcp => &drops.dhcp,
            Self::Router => &drops.router,
            Self::Evasive => &drops.evasive,
            Self::Checksum => &drops.checksum,
            Self::LinkControl => &drops.link_control,
        }
    }
}

/// The rules of one NIC.
#[derive(Debug)]
pub struct Rules<'a> {
    /// What is checked.
    pub guard: &'a Guard,
    /// The NIC's address.
    pub mac: Option<MacAddress>,
}

/// The big-endian integer at an offset, if it is there.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*field))
}

impl Rules<'_> {
    /// Whether a frame may be sent.
    pub fn check(&self, frame: &Frame<'_>) -> Result<(), Violation> {
        let Guard {
            mac,
            services,
            ipv4,
            ipv6,
        } = self.guard;
        let mac = self.mac.filter(|_| *mac);
        if mac.is_none() && !services && ipv4.is_empty() && ipv6.is_empty() {
            return Ok(());
        }
        if mac.is_some_and(|mac| frame.head.get(6..12) != Some(&mac.0)) {
            return Err(Violation::SourceMac);
        }
        if *services && link_control::is_destination(frame.head) {
            return Err(Violation::LinkControl);
        }
        let packet = Packet::parse(frame).ok_or(Violation::Evasive)?;
        match packet {
            Packet::Arp(message) => self.check_arp(message, mac)?,
            Packet::Rarp(message) => {
                self.check_arp(message, mac)?;
                self.check_rarp(message)?;
            }
            Packet::Ipv4(source, transport) => self.check_ipv4(source, transport)?,
            Packet::Ipv6(source, transport) => self.check_ipv6(source, transport, mac)?,
            Packet::Other(kind) if *services && link_control::is_kind(kind) => {
                return Err(Violation::LinkControl);
            }
            Packet::Other(_) => {}
        }
        match &frame.offload {
            Some(offload) if !offload::fits(offload, &packet) => Err(Violation::Checksum),
            _ => Ok(()),
        }
    }

    /// RFC 826: the sender must be the guest itself.
    fn check_arp(&self, message: &[u8], mac: Option<MacAddress>) -> Result<(), Violation> {
        let (form, sender) = message.split_first_chunk::<8>().ok_or(Violation::Evasive)?;
        // Ethernet or IEEE 802 (as old), with IPv4. Other forms have their fields elsewhere.
        if !matches!(form, [0, 1 | 6, 8, 0, 6, 4, _, _]) {
            return Err(Violation::Evasive);
        }
        let (sender, rest) = sender.split_first_chunk::<6>().ok_or(Violation::Evasive)?;
        if mac.is_some_and(|mac| *sender != mac.0) {
            return Err(Violation::Neighbour);
        }
        let address = Ipv4Addr::from(*rest.first_chunk::<4>().ok_or(Violation::Evasive)?);
        // A probe does not claim anything (RFC 5227).
        if address.is_unspecified() || self.is_own_ipv4(address) {
            Ok(())
        } else {
            Err(Violation::Neighbour)
        }
    }

    /// RFC 903: a server's reply tells other hosts their addresses, as DHCP does.
    fn check_rarp(&self, message: &[u8]) -> Result<(), Violation> {
        match u16_at(message, 6) {
            Some(4) if self.guard.services => Err(Violation::Dhcp),
            _ => Ok(()),
        }
    }

    fn is_own_ipv4(&self, address: Ipv4Addr) -> bool {
        self.guard.ipv4.is_empty() || self.guard.ipv4.contains(&address)
    }

    fn is_own_ipv6(&self, address: Ipv6Addr) -> bool {
        let local = || self.mac.is_some_and(|mac| link_local(mac) == address);
        self.guard.ipv6.is_empty() || self.guard.ipv6.contains(&address) || local()
    }
}

/// The link-local address that a host derives from its MAC address (RFC 4291, appendix A).
fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

#[cfg(test)]
mod tests;
