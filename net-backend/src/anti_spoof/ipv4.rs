// SPDX-License-Identifier: Apache-2.0
//! The checks of IPv4 packets.

use std::net::Ipv4Addr;

use super::packet::Transport;
use super::{DHCP, ICMP, Rules, UDP, Violation, u16_at};

/// What routers send to hosts (RFC 792, RFC 1256).
mod message {
    pub(super) const REDIRECT: u8 = 5;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 9;
}

impl Rules<'_> {
    pub(super) fn check_ipv4(
        &self,
        source: Ipv4Addr,
        transport: Transport<'_>,
    ) -> Result<(), Violation> {
        if source.is_unspecified() && !self.guard.ipv4.is_empty() {
            // A guest without an address may only ask a DHCP server for one.
            let is_question = match transport {
                Transport::Whole(m) => m.protocol == UDP && u16_at(m.bytes, 2) == Some(DHCP.server),
                _ => false,
            };
            if !is_question {
                return Err(Violation::SourceIp);
            }
        } else if !self.is_own_ipv4(source) {
            return Err(Violation::SourceIp);
        }
        if !self.guard.services {
            return Ok(());
        }
        match transport {
            Transport::Hidden => Err(Violation::Evasive),
            Transport::Later => Ok(()),
            Transport::Whole(m) | Transport::First(m) => match m.protocol {
                UDP => DHCP.check(m.bytes),
                ICMP => match m.bytes.first().ok_or(Violation::Evasive)? {
                    &message::REDIRECT | &message::ROUTER_ADVERTISEMENT => Err(Violation::Router),
                    _ => Ok(()),
                },
                _ => Ok(()),
            },
        }
    }
}
