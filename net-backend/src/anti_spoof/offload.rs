// SPDX-License-Identifier: Apache-2.0
//! What the kernel, or a NIC, may still do to a frame that was checked (virtio 1.2, §5.1.6.2).
//!
//! With VIRTIO_NET_HDR_F_NEEDS_CSUM the kernel sums the bytes from `csum_start` on and writes the
//! sum to a place that the driver names: two bytes of the guest's choice, which could be a port, an
//! address or an EtherType. So the place must be the checksum of the transport header that was
//! parsed here, where nothing else is checked. When the kernel cuts a frame into segments it copies
//! the headers and writes their lengths, so it must take the packet for the same as the parser
//! does.
//!
//! A Linux guest asks for three sums: TCP's, UDP's (also around a tunnelled packet) and, with `ip
//! link … type gre csum`, GRE's. Inside tunnels, for SCTP and for fragments the guest computes them
//! itself, unless VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO is offered, which it is not. Frames that name
//! any other place are dropped and counted.

use super::packet::{Packet, Transport};
use super::{GRE, TCP, UDP};
use crate::header::{Offload, Segments};

/// Where the checksums are in the headers (RFC 9293, RFC 768, RFC 2784).
mod checksum_offset {
    pub(super) const TCP: u16 = 16;
    pub(super) const UDP: u16 = 6;
    pub(super) const GRE: u16 = 4;
}

/// The bit of a GRE header that says that it has a checksum.
const GRE_CHECKSUM: u8 = 0x80;
/// Fragment offsets are in units of so many bytes. The kernel does not check this: of several
/// shorter pieces, more than one would claim to be the first fragment.
const FRAGMENT_UNIT_BYTES: u16 = 8;

/// Whether the kernel may do this to the packet.
pub(super) fn fits(offload: &Offload, packet: &Packet<'_>) -> bool {
    let (v6, message) = match packet {
        Packet::Ipv4(_, Transport::Whole(message)) => (false, message),
        Packet::Ipv6(_, Transport::Whole(message)) => (true, message),
        _ => return false,
    };
    let expected = match message.protocol {
        TCP => checksum_offset::TCP,
        UDP => checksum_offset::UDP,
        GRE if message.bytes.first().is_some_and(|b| b & GRE_CHECKSUM != 0) => checksum_offset::GRE,
        _ => return false,
    };
    let segments = match offload.segments {
        None => true,
        Some((Segments::Tcp4, _)) => message.protocol == TCP && !v6,
        Some((Segments::Tcp6, _)) => message.protocol == TCP && v6,
        Some((Segments::UdpFragments, size)) => {
            message.protocol == UDP && size.is_multiple_of(FRAGMENT_UNIT_BYTES)
        }
        Some((Segments::Udp, _)) => message.protocol == UDP,
    };
    segments
        && usize::from(offload.checksum_start) == message.offset
        && offload.checksum_offset == expected
}
