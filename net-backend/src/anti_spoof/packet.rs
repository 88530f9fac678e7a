// SPDX-License-Identifier: Apache-2.0
//! Parses what a frame carries, from its copied beginning and its length: VLAN tags, ARP, IPv4,
//! IPv6 with its extension headers, and where the transport header is.
//!
//! A receiver cuts a packet to the length in its IP header, so the parser never takes bytes behind
//! that for headers: what a fragment "continues" there, its receiver reads from the next fragment.
//! The fuzz target `guard` compares this parser with the crate etherparse.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::u16_at;
use crate::header::Offload;

/// Two tags at most: 802.1ad around 802.1Q.
const TAGS_MAX: usize = 2;
/// 802.1Q, 802.1ad, and their predecessors.
const TAGS: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// A smaller number is the length of an 802.3 frame.
const KIND_MIN: u16 = 0x0600;
/// The beginning of an 802.3 frame that carries an EtherType (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];

/// A packet with more extension headers than this is trying to hide something.
const EXTENSIONS_MAX: usize = 8;

/// Extension headers, after which another header may follow (RFC 8200 §4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// A frame that the driver wants to send.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The frame's copied beginning.
    pub head: &'a [u8],
    /// The frame's whole length.
    pub len_bytes: usize,
    /// What the kernel is asked to do to it, if anything.
    pub offload: Option<Offload>,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// Address resolution.
    Arp(&'a [u8]),
    /// Reverse address resolution, of the same form.
    Rarp(&'a [u8]),
    /// A packet from this address.
    Ipv4(Ipv4Addr, Transport<'a>),
    /// A packet from this address.
    Ipv6(Ipv6Addr, Transport<'a>),
    /// Another EtherType, or the length of an 802.3 frame.
    Other(u16),
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy)]
pub enum Transport<'a> {
    /// A whole message.
    Whole(Message<'a>),
    /// The first fragment of a message, or the only one.
    First(Message<'a>),
    /// A fragment of a message that begins in another packet.
    Later,
    /// The transport header is beyond what was copied, or malformed.
    Hidden,
}

/// What follows the IP headers.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The protocol.
    pub protocol: u8,
    /// Where it begins in the frame.
    pub offset: usize,
    /// The part of it that was copied.
    pub bytes: &'a [u8],
    /// Its length, including what was not copied.
    pub len_bytes: usize,
}

impl<'a> Transport<'a> {
    /// The beginning of a message, whole or fragmented.
    pub fn begun(self) -> Option<Message<'a>> {
        match self {
            Self::Whole(message) | Self::First(message) => Some(message),
            Self::Later | Self::Hidden => None,
        }
    }
}

impl<'a> Message<'a> {
    /// What lies between two places of a frame.
    fn between(frame: &Frame<'a>, protocol: u8, offset: usize, end: usize) -> Option<Self> {
        let copied = frame.head.len().min(end);
        Some(Self {
            protocol,
            offset,
            bytes: frame.head.get(offset..copied)?,
            len_bytes: end.checked_sub(offset)?,
        })
    }

    /// What follows a header that names this protocol.
    fn behind(self, protocol: u8, header_bytes: usize) -> Option<Self> {
        Some(Self {
            protocol,
            offset: self.offset + header_bytes,
            bytes: self.bytes.get(header_bytes..)?,
            len_bytes: self.len_bytes.checked_sub(header_bytes)?,
        })
    }
}

impl<'a> Packet<'a> {
    /// Parses a frame; `None` if the frame hides what it carries.
    pub fn parse(frame: &Frame<'a>) -> Option<Self> {
        let mut offset = 12;
        let mut kind = u16_at(frame.head, offset)?;
        for _ in 0..TAGS_MAX {
            if TAGS.contains(&kind) {
                offset += 4;
                kind = u16_at(frame.head, offset)?;
            }
        }
        offset += 2;
        let payload = frame.head.get(offset..)?;
        match kind {
            ARP => Some(Self::Arp(payload)),
            RARP => Some(Self::Rarp(payload)),
            IPV4 => ipv4(frame, offset),
            IPV6 => ipv6(frame, offset),
            kind if TAGS.contains(&kind) => None,
            // Some receivers look inside these.
            ..KIND_MIN if payload.starts_with(&SNAP) => match u16_at(payload, SNAP.len())? {
                ARP | RARP | IPV4 | IPV6 => None,
                inner if TAGS.contains(&inner) => None,
                _ => Some(Self::Other(kind)),
            },
            kind => Some(Self::Other(kind)),
        }
    }
}

/// The end of a packet that begins at `offset` and claims this length. If the kernel segments it,
/// the claimed length does not count: the kernel writes new ones into the segments.
fn end(frame: &Frame<'_>, offset: usize, said_bytes: usize) -> usize {
    let segmented = frame.offload.is_some_and(|o| o.segments.is_some());
    if segmented {
        frame.len_bytes
    } else {
        frame.len_bytes.min(offset + said_bytes)
    }
}

fn ipv4<'a>(frame: &Frame<'a>, offset: usize) -> Option<Packet<'a>> {
    let (header, _) = frame.head.get(offset..)?.split_first_chunk::<20>()?;
    let header_bytes = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return None;
    }
    // The header's options must have been copied, too.
    frame.head.get(offset..offset + header_bytes)?;
    let source = Ipv4Addr::from([header[12], header[13], header[14], header[15]]);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let (later, more) = (fragment & 0x1fff != 0, fragment & 0x2000 != 0);
    let said_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let end = end(frame, offset, said_bytes);
    let transport = match Message::between(frame, header[9], offset + header_bytes, end) {
        _ if later => Transport::Later,
        Some(message) => walk(message, more, false),
        None => Transport::Hidden,
    };
    Some(Packet::Ipv4(source, transport))
}

fn ipv6<'a>(frame: &Frame<'a>, offset: usize) -> Option<Packet<'a>> {
    let (header, _) = frame.head.get(offset..)?.split_first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    // No frame is long enough for a jumbogram (RFC 2675), whose length is in an option.
    let said_bytes = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = end(frame, offset, said_bytes);
    let transport = match Message::between(frame, header[6], offset + 40, end) {
        Some(message) => walk(message, false, true),
        None => Transport::Hidden,
    };
    Some(Packet::Ipv6(source, transport))
}

/// Walks the extension headers up to the transport header.
fn walk(mut message: Message<'_>, mut fragment: bool, v6: bool) -> Transport<'_> {
    for number in 0..EXTENSIONS_MAX {
        if !is_extension(message.protocol, v6) {
            return match fragment {
                true => Transport::First(message),
                false => Transport::Whole(message),
            };
        }
        // No extension header is shorter.
        let Some(([next, length, high, low, ..], _)) = message.bytes.split_first_chunk::<8>()
        else {
            return Transport::Hidden;
        };
        let header_bytes = match message.protocol {
            // It is "restricted to appear immediately after an IPv6 header only" (RFC 8200 §4.1).
            extension::HOP_BY_HOP if number > 0 => return Transport::Hidden,
            // Shorter than its own fields (RFC 4302 §2).
            extension::AUTHENTICATION if *length == 0 => return Transport::Hidden,
            extension::AUTHENTICATION => 8 + 4 * usize::from(*length),
            extension::FRAGMENT if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 => {
                return Transport::Later;
            }
            extension::FRAGMENT => {
                fragment = true;
                8
            }
            _ => 8 + 8 * usize::from(*length),
        };
        match message.behind(*next, header_bytes) {
            Some(behind) => message = behind,
            None => return Transport::Hidden,
        }
    }
    Transport::Hidden
}

/// Whether this is an extension header. IPv4 has only one of them.
fn is_extension(protocol: u8, v6: bool) -> bool {
    match protocol {
        extension::AUTHENTICATION => true,
        extension::HOP_BY_HOP
        | extension::ROUTING
        | extension::FRAGMENT
        | extension::DESTINATION => v6,
        _ => false,
    }
}
