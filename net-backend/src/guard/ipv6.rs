// SPDX-License-Identifier: Apache-2.0
//! The checks of IPv6 packets: extension headers are walked until the packet says what it is.

use std::net::Ipv6Addr;

use super::{DHCPV6, Offence, Rules, UDP, u16_at};
use crate::filter::Mac;

/// More extension headers than this are a disguise.
const EXTENSIONS_MAX: usize = 8;
const ICMPV6: u8 = 58;

/// The headers that another may follow (RFC 8200 §4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// The messages of neighbour discovery (RFC 4861 §4).
mod message {
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const SOLICITATION: u8 = 135;
    pub(super) const ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// What a packet turned out to carry.
enum Payload<'a> {
    /// The protocol and its header.
    Protocol(u8, &'a [u8]),
    /// Part of something whose beginning is in another packet.
    Later,
}

fn payload(packet: &[u8]) -> Option<Payload<'_>> {
    let mut next = *packet.get(6)?;
    let mut rest = packet.get(40..)?;
    for _ in 0..EXTENSIONS_MAX {
        let len_bytes = match next {
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION => {
                8 + 8 * usize::from(*rest.get(1)?)
            }
            extension::AUTHENTICATION => 8 + 4 * usize::from(*rest.get(1)?),
            extension::FRAGMENT if u16_at(rest, 2)? & 0xfff8 != 0 => return Some(Payload::Later),
            extension::FRAGMENT => 8,
            _ => return Some(Payload::Protocol(next, rest)),
        };
        next = *rest.first()?;
        rest = rest.get(len_bytes..)?;
    }
    None
}

impl Rules<'_> {
    pub(super) fn check_ipv6(&self, packet: &[u8], mac: Option<Mac>) -> Result<(), Offence> {
        let source = packet.get(8..).and_then(<[u8]>::first_chunk::<16>);
        let source = Ipv6Addr::from(*source.ok_or(Offence::Evasive)?);
        if !source.is_unspecified() && !self.is_own_ipv6(source) {
            return Err(Offence::SourceIp);
        }
        if !self.guard.services && mac.is_none() && self.guard.ipv6.is_empty() {
            return Ok(());
        }
        match payload(packet).ok_or(Offence::Evasive)? {
            Payload::Protocol(ICMPV6, message) => self.check_discovery(message, mac),
            Payload::Protocol(UDP, datagram) if self.guard.services => DHCPV6.check(datagram),
            Payload::Protocol(..) | Payload::Later => Ok(()),
        }
    }

    fn check_discovery(&self, message: &[u8], mac: Option<Mac>) -> Result<(), Offence> {
        let options_at = match message.first().ok_or(Offence::Evasive)? {
            &message::ROUTER_ADVERTISEMENT | &message::REDIRECT if self.guard.services => {
                return Err(Offence::Router);
            }
            &message::ROUTER_SOLICITATION => 8,
            &message::SOLICITATION => 24,
            &message::ADVERTISEMENT => {
                let target = message.get(8..).and_then(<[u8]>::first_chunk::<16>);
                let target = Ipv6Addr::from(*target.ok_or(Offence::Evasive)?);
                if !self.is_own_ipv6(target) {
                    return Err(Offence::Neighbour);
                }
                24
            }
            _ => return Ok(()),
        };
        let Some(mac) = mac else {
            return Ok(());
        };
        let mut options = message.get(options_at..).unwrap_or_default();
        // The link-layer address of whoever speaks: types 1 and 2 (RFC 4861 §4.6.1).
        while let [kind, len, rest @ ..] = options {
            if *len == 0 {
                return Err(Offence::Evasive);
            }
            if matches!(kind, 1 | 2) && rest.get(..6) != Some(&mac.0) {
                return Err(Offence::Neighbour);
            }
            options = options.get(8 * usize::from(*len)..).unwrap_or_default();
        }
        Ok(())
    }
}
