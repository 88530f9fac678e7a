// SPDX-License-Identifier: Apache-2.0
//! The guard beside another parser of packets, the crate etherparse: they must find the same addresses
//! and headers, and what the guard lets through must hold nothing that etherparse finds forbidden. The
//! first byte of an input says which checks are on and how much of the frame is copied; a virtio header
//! and the frame follow.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::Ipv6ExtensionsSlice;
use ipc::mac::MacAddress;
use ipc::record::Guard;
use net_backend::anti_spoof::Rules;
use net_backend::anti_spoof::packet::Frame;
use net_backend::header::Header;

use crate::leaves::leaves;
use crate::targets::net::stays_allowed;

mod parsers;
mod policy;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const IPV4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
/// What is copied of a long frame, without its virtio header.
const COPIED_BYTES: usize = net_backend::tx_frame::HEAD_BYTES - host::tap::HEADER_BYTES;

/// Bits of the first byte.
mod shape {
    pub(super) const MAC: u8 = 1;
    pub(super) const SERVICES: u8 = 2;
    pub(super) const IPV4: u8 = 4;
    pub(super) const IPV6: u8 = 8;
    pub(super) const LONG: u8 = 16;
    pub(super) const HEADER: u8 = 32;
}

pub(crate) fn run(data: &[u8]) {
    let Some((shape, mut rest)) = data.split_first() else {
        return;
    };
    let is = |bit: u8| shape & bit != 0;
    let guard = Guard {
        mac: is(shape::MAC),
        services: is(shape::SERVICES),
        ipv4: vec![IPV4; usize::from(is(shape::IPV4))],
        ipv6: vec![IPV6; usize::from(is(shape::IPV6))],
    };
    let mut offload = None;
    if is(shape::HEADER) {
        let Some(header) = Header::parse(rest) else {
            return;
        };
        rest = &rest[host::tap::LEGACY_HEADER_BYTES..];
        if header.check(u64::MAX, rest.len()).is_err() {
            return;
        }
        offload = header.offload();
    }
    let copied = if is(shape::LONG) {
        COPIED_BYTES
    } else {
        usize::MAX
    };
    let frame = Frame {
        head: &rest[..rest.len().min(copied)],
        len_bytes: rest.len(),
        offload,
    };
    if offload.is_none() {
        parsers::compare(&frame, rest);
    }
    let rules = Rules {
        guard: &guard,
        mac: Some(MAC),
    };
    if rest.len() < 14 || rules.check(&frame).is_err() {
        return;
    }
    stays_allowed(&rules, rest, offload);
    for left in leaves(rest, offload) {
        policy::check(&guard, MAC, &left);
    }
}

/// Whether a fragment header says that the beginning of the message is in another packet. etherparse
/// reads the offset from the wrong bits of the header (RFC 8200 §4.5), and its iterator leaves the slice
/// if the last header is cut short.
fn is_later(extensions: &Ipv6ExtensionsSlice<'_>) -> bool {
    let mut kind = extensions.first_header().map(|number| number.0);
    let mut rest = extensions.slice();
    while let (Some(number), [next, len, high, low, ..]) = (kind, rest) {
        let len_bytes = match number {
            0 | 43 | 60 => 8 + 8 * usize::from(*len),
            51 => 8 + 4 * usize::from(*len),
            44 if u16::from_be_bytes([*high, *low]) >> 3 != 0 => return true,
            44 => 8,
            _ => return false,
        };
        (kind, rest) = (Some(*next), rest.get(len_bytes..).unwrap_or_default());
    }
    false
}
