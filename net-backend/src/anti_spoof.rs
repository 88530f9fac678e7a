// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send, so that tenants who share a network cannot pretend to be each other, its
//! router or its switches: other MAC addresses, other IP addresses, DHCP offers, router advertisements,
//! the frames that switches speak to each other with.
//!
//! [`packet`] parses a copy of the frame's beginning, which is also what is sent: the guest cannot
//! change it in between. What hides behind more headers than were copied is not let through. After
//! that the kernel, or a NIC, still writes into the frame where the virtio header asks for a checksum
//! or for segments: [`offload`] lets it do so only where nothing is that was checked here.
//!
//! With every check switched off a frame is not parsed, and only [`crate::header`] and the kernel
//! itself judge its offloads.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicU64;

use ipc::health::Drops;
use ipc::record::Guard;

use crate::filter::Mac;

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
    /// Refuses what only a server sends. Clients take an answer from whatever port it comes, and never
    /// speak to each other. A fragment that is not the first has no ports; nobody can put it together
    /// without the first one.
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
    /// ARP or neighbour discovery about others.
    Neighbour,
    /// A DHCP server's packet.
    Dhcp,
    /// A router's advertisement or redirect.
    Router,
    /// What it is cannot be told.
    Evasive,
    /// The kernel would write where it must not, or cut it into what it is not.
    Checksum,
    /// A frame between switches.
    LinkControl,
}

impl Violation {
    /// Where it is counted.
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

/// The rules of one card.
#[derive(Debug)]
pub struct Rules<'a> {
    /// What is checked.
    pub guard: &'a Guard,
    /// The card's address.
    pub mac: Option<Mac>,
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

    /// RFC 826: who says what must be the guest about itself.
    fn check_arp(&self, message: &[u8], mac: Option<Mac>) -> Result<(), Violation> {
        let (form, sender) = message.split_first_chunk::<8>().ok_or(Violation::Evasive)?;
        // Ethernet, or IEEE 802 as old as that, and IPv4. The fields of others are elsewhere.
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

    /// RFC 903: a server's reply tells others their addresses, as DHCP does.
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

/// The address that a card gives itself from its MAC address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
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
