// SPDX-License-Identifier: Apache-2.0
//! Parses what a frame carries, from its copied beginning and its length: VLAN tags, ARP, IPv4, IPv6
//! with its extension headers, and where the transport header is.
//!
//! A receiver cuts a packet to the length that its IP header says, so bytes behind that are never
//! taken for headers: what a fragment "continues" there, its receiver reads in the next fragment. The
//! fuzz target `guard` compares this parser with the crate etherparse.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::u16_at;
use crate::header::Offload;

/// Two tags at most: 802.1ad around 802.1Q.
const TAGS_MAX: usize = 2;
/// 802.1Q, 802.1ad, and what switches used before that.
const TAGS: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// A smaller one is the length of an 802.3 frame.
const KIND_MIN: u16 = 0x0600;
/// What begins an 802.3 frame that has an EtherType all the same (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];

/// More extension headers than this are a disguise.
const EXTENSIONS_MAX: usize = 8;

/// The headers that another may follow (RFC 8200 §4, RFC 4302).
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
    /// Its copied beginning.
    pub head: &'a [u8],
    /// How long it is.
    pub len_bytes: usize,
    /// What the kernel is to do with it, if there is anything.
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
    /// An EtherType that is not parsed, or a length.
    Other(u16),
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy)]
pub enum Transport<'a> {
    /// A whole message.
    Whole(Message<'a>),
    /// The first fragment of one, or the only one.
    First(Message<'a>),
    /// A fragment whose beginning is in another packet.
    Later,
    /// Its header is not where it could be read.
    Hidden,
}

/// What is behind the IP headers.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The protocol.
    pub protocol: u8,
    /// Where it begins in the frame.
    pub offset: usize,
    /// What of it was copied.
    pub bytes: &'a [u8],
    /// Its length, with what was not copied.
    pub len_bytes: usize,
}

impl<'a> Transport<'a> {
    /// The beginning of a message, whole or not.
    pub fn begun(self) -> Option<Message<'a>> {
        match self {
            Self::Whole(message) | Self::First(message) => Some(message),
            Self::Later | Self::Hidden => None,
        }
    }
}

impl<'a> Message<'a> {
    /// What is between two places of a frame.
    fn between(frame: &Frame<'a>, protocol: u8, offset: usize, end: usize) -> Option<Self> {
        let copied = frame.head.len().min(end);
        Some(Self {
            protocol,
            offset,
            bytes: frame.head.get(offset..copied)?,
            len_bytes: end.checked_sub(offset)?,
        })
    }

    /// What is behind a header, which says that it is of this protocol.
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
    /// Parses a frame, unless it hides what it carries.
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
            // Some receivers look into these.
            ..KIND_MIN if payload.starts_with(&SNAP) => match u16_at(payload, SNAP.len())? {
                ARP | RARP | IPV4 | IPV6 => None,
                inner if TAGS.contains(&inner) => None,
                _ => Some(Self::Other(kind)),
            },
            kind => Some(Self::Other(kind)),
        }
    }
}

/// Where a packet ends that begins at `offset` and says how long it is. The kernel writes new lengths
/// into the segments of one that it cuts into pieces, whatever the driver wrote there.
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
    // With its options.
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
    // None is so long that its length were a jumbogram's (RFC 2675), in an option.
    let said_bytes = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = end(frame, offset, said_bytes);
    let transport = match Message::between(frame, header[6], offset + 40, end) {
        Some(message) => walk(message, false, true),
        None => Transport::Hidden,
    };
    Some(Packet::Ipv6(source, transport))
}

/// Walks extension headers until the transport's.
fn walk(mut message: Message<'_>, mut fragment: bool, v6: bool) -> Transport<'_> {
    for number in 0..EXTENSIONS_MAX {
        if !is_extension(message.protocol, v6) {
            return match fragment {
                true => Transport::First(message),
                false => Transport::Whole(message),
            };
        }
        // None of them is shorter.
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

/// Whether another header follows this one. IPv4 has options instead, but for one.
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
