// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send, so that tenants who share a network cannot pretend to be each other or
//! its router: other MAC addresses, other IP addresses, DHCP offers, router advertisements.
//!
//! Looks at a copy of the frame's beginning, which is also what is sent: the guest cannot change it
//! in between. What hides behind more headers than were copied is not let through.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicU64;

use launch::health::Drops;
use launch::record::Guard;

use crate::filter::Mac;

mod ipv6;

/// Two tags at most: 802.1ad around 802.1Q.
const TAGS_MAX: usize = 2;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
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
    fn check(self, datagram: &[u8]) -> Result<(), Offence> {
        let ports = u16_at(datagram, 0).zip(u16_at(datagram, 2));
        let (source, destination) = ports.ok_or(Offence::Evasive)?;
        if source == self.server || destination == self.client {
            return Err(Offence::Dhcp);
        }
        Ok(())
    }
}

/// Why a frame is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
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
}

impl Offence {
    /// Where it is counted.
    pub fn counter(self, drops: &Drops) -> &AtomicU64 {
        match self {
            Self::SourceMac => &drops.source_mac,
            Self::SourceIp => &drops.source_ip,
            Self::Neighbour => &drops.neighbour,
            Self::Dhcp => &drops.dhcp,
            Self::Router => &drops.router,
            Self::Evasive => &drops.evasive,
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
    /// Whether a frame that begins with `head` may be sent.
    pub fn check(&self, head: &[u8]) -> Result<(), Offence> {
        let Some(mac) = self.mac.filter(|_| self.guard.mac) else {
            return self.check_payload(head, None);
        };
        if head.get(6..12) != Some(&mac.0) {
            return Err(Offence::SourceMac);
        }
        self.check_payload(head, Some(mac))
    }

    fn check_payload(&self, head: &[u8], mac: Option<Mac>) -> Result<(), Offence> {
        let Guard {
            services,
            ipv4,
            ipv6,
            ..
        } = self.guard;
        if !services && ipv4.is_empty() && ipv6.is_empty() && mac.is_none() {
            return Ok(());
        }
        let mut offset = 12;
        let mut kind = u16_at(head, offset).ok_or(Offence::Evasive)?;
        for _ in 0..TAGS_MAX {
            if VLAN.contains(&kind) {
                offset += 4;
                kind = u16_at(head, offset).ok_or(Offence::Evasive)?;
            }
        }
        let packet = head.get(offset + 2..).unwrap_or_default();
        match kind {
            ARP => self.check_arp(packet, mac),
            IPV4 => self.check_ipv4(packet),
            IPV6 => self.check_ipv6(packet, mac),
            kind if VLAN.contains(&kind) => Err(Offence::Evasive),
            _ => Ok(()),
        }
    }

    /// RFC 826: who says what must be the guest about itself.
    fn check_arp(&self, packet: &[u8], mac: Option<Mac>) -> Result<(), Offence> {
        let sender = packet.get(8..14).ok_or(Offence::Evasive)?;
        if mac.is_some_and(|mac| sender != mac.0) {
            return Err(Offence::Neighbour);
        }
        let address = packet.get(14..).and_then(<[u8]>::first_chunk::<4>);
        let address = Ipv4Addr::from(*address.ok_or(Offence::Evasive)?);
        // A probe does not claim anything (RFC 5227).
        if address.is_unspecified() || self.is_own_ipv4(address) {
            Ok(())
        } else {
            Err(Offence::Neighbour)
        }
    }

    fn is_own_ipv4(&self, address: Ipv4Addr) -> bool {
        self.guard.ipv4.is_empty() || self.guard.ipv4.contains(&address)
    }

    fn is_own_ipv6(&self, address: Ipv6Addr) -> bool {
        let local = || self.mac.is_some_and(|mac| link_local(mac) == address);
        self.guard.ipv6.is_empty() || self.guard.ipv6.contains(&address) || local()
    }

    fn check_ipv4(&self, packet: &[u8]) -> Result<(), Offence> {
        let (head, _) = packet.split_first_chunk::<20>().ok_or(Offence::Evasive)?;
        let header_bytes = usize::from(head[0] & 0xf) * 4;
        if head[0] >> 4 != 4 || header_bytes < 20 {
            return Err(Offence::Evasive);
        }
        let source = Ipv4Addr::from([head[12], head[13], head[14], head[15]]);
        let first = u16::from_be_bytes([head[6], head[7]]) & 0x1fff == 0;
        let datagram = packet.get(header_bytes..).unwrap_or_default();
        let udp = head[9] == UDP && first;
        if source.is_unspecified() && !self.guard.ipv4.is_empty() {
            // Who has no address yet asks a DHCP server for one, and nothing else.
            return match u16_at(datagram, 2) {
                Some(port) if udp && port == DHCP.server => Ok(()),
                _ => Err(Offence::SourceIp),
            };
        }
        if !self.is_own_ipv4(source) {
            return Err(Offence::SourceIp);
        }
        if self.guard.services && udp {
            return DHCP.check(datagram);
        }
        Ok(())
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
