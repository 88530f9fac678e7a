// SPDX-License-Identifier: Apache-2.0
//! The checks of IPv6 packets, neighbour discovery among them.

use std::net::Ipv6Addr;

use super::packet::{Message, Transport};
use super::{DHCPV6, ICMPV6, Rules, UDP, Violation};
use ipc::mac::MacAddress;

/// The messages of neighbour discovery (RFC 4861 §4).
mod message {
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const SOLICITATION: u8 = 135;
    pub(super) const ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// Options with the link-layer address of the sender, or of the target (RFC 4861 §4.6.1).
mod option {
    pub(super) const SOURCE: u8 = 1;
    pub(super) const TARGET: u8 = 2;
}

impl Rules<'_> {
    pub(super) fn check_ipv6(
        &self,
        source: Ipv6Addr,
        transport: Transport<'_>,
        mac: Option<MacAddress>,
    ) -> Result<(), Violation> {
        if !source.is_unspecified() && !self.is_own_ipv6(source) {
            return Err(Violation::SourceIp);
        }
        if !self.guard.services && mac.is_none() && self.guard.ipv6.is_empty() {
            return Ok(());
        }
        if matches!(transport, Transport::Hidden) {
            return Err(Violation::Evasive);
        }
        let Some(begun) = transport.begun() else {
            return Ok(());
        };
        match begun.protocol {
            ICMPV6 => {
                let whole = matches!(transport, Transport::Whole(_));
                self.check_discovery(begun, whole, mac)
            }
            UDP if self.guard.services => DHCPV6.check(begun.bytes),
            _ => Ok(()),
        }
    }

    fn check_discovery(
        &self,
        discovery: Message<'_>,
        whole: bool,
        mac: Option<MacAddress>,
    ) -> Result<(), Violation> {
        let bytes = discovery.bytes;
        let kind = *bytes.first().ok_or(Violation::Evasive)?;
        let options_at = match kind {
            message::ROUTER_ADVERTISEMENT | message::REDIRECT if self.guard.services => {
                return Err(Violation::Router);
            }
            message::ROUTER_SOLICITATION => 8,
            message::ROUTER_ADVERTISEMENT => 16,
            message::SOLICITATION | message::ADVERTISEMENT => 24,
            message::REDIRECT => 40,
            _ => return Ok(()),
        };
        // "Nodes MUST NOT employ IPv6 fragmentation for sending" these (RFC 6980 §5). The next
        // fragment, and what was not copied, cannot be checked.
        if !whole || bytes.len() < discovery.len_bytes {
            return Err(Violation::Evasive);
        }
        if kind == message::ADVERTISEMENT {
            let target = bytes.get(8..).and_then(<[u8]>::first_chunk::<16>);
            let target = Ipv6Addr::from(*target.ok_or(Violation::Evasive)?);
            if !self.is_own_ipv6(target) {
                return Err(Violation::Neighbour);
            }
        }
        let Some(mac) = mac else {
            return Ok(());
        };
        let mut options = bytes.get(options_at..).ok_or(Violation::Evasive)?;
        while let [number, len, rest @ ..] = options {
            let claims = match *number {
                option::SOURCE => true,
                // In a redirect, this option has the address of another host.
                option::TARGET => kind != message::REDIRECT,
                _ => false,
            };
            if claims && rest.get(..6) != Some(&mac.0) {
                return Err(Violation::Neighbour);
            }
            options = match usize::from(*len) {
                0 => return Err(Violation::Evasive),
                len => options.get(8 * len..).unwrap_or_default(),
            };
        }
        Ok(())
    }
}
