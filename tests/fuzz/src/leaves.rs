// SPDX-License-Identifier: Apache-2.0
//! What leaves the host for a frame that a guest has sent, as far as it depends on the virtio header:
//! a model of what the kernel, or a NIC, writes after the backend has looked.

use net_backend::header::{Offload, Segments};

/// The most segments that are made; the others are like them.
const SEGMENTS_MAX: usize = 64;
const TAGS: [[u8; 2]; 2] = [[0x81, 0], [0x88, 0xa8]];

/// The frames that leave. None if the kernel refuses them.
pub(crate) fn leaves(frame: &[u8], offload: Option<Offload>) -> Vec<Vec<u8>> {
    let Some(offload) = offload else {
        return vec![frame.to_vec()];
    };
    let segmented = offload.segments.and_then(|kind| cut(frame, offload, kind));
    segmented.unwrap_or_else(|| completed(frame, offload).into_iter().collect())
}

/// Linux's `skb_checksum_help`: the sum of everything from `checksum_start` on, with the partial sum that
/// the driver has put in the sum's place, goes there; a zero is sent as its other form.
fn completed(frame: &[u8], offload: Offload) -> Option<Vec<u8>> {
    let start = usize::from(offload.checksum_start);
    let place = start + usize::from(offload.checksum_offset);
    let mut sum = 0_u32;
    for pair in frame.get(start..)?.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = match u16::try_from(!sum & 0xffff).unwrap() {
        0 => 0xffff,
        folded => folded,
    };
    let mut frame = frame.to_vec();
    frame
        .get_mut(place..place + 2)?
        .copy_from_slice(&folded.to_be_bytes());
    Some(frame)
}

/// Cut into what the driver said it is, if it is longer than one piece. The kernel finds the headers
/// itself, by EtherType and protocol; it drops what is none of those.
fn cut(frame: &[u8], offload: Offload, (kind, size): (Segments, u16)) -> Option<Vec<Vec<u8>>> {
    let mut l3 = 14;
    while TAGS.iter().any(|tag| frame.get(l3 - 2..l3) == Some(tag)) {
        l3 += 4;
    }
    let (is_v4, l4) = match frame.get(l3 - 2..l3)? {
        [8, 0] => (true, l3 + usize::from(frame.get(l3)? & 0xf) * 4),
        [0x86, 0xdd] => (false, usize::from(offload.checksum_start)),
        _ => return Some(Vec::new()),
    };
    let body = match kind {
        Segments::Tcp4 | Segments::Tcp6 => l4 + usize::from(frame.get(l4 + 12)? >> 4) * 4,
        Segments::Udp => l4 + 8,
        // Where IPv6 has its header for fragments is not modelled.
        Segments::UdpFragments if is_v4 => l4,
        Segments::UdpFragments => return None,
    };
    let (headers, payload) = frame.split_at_checked(body)?;
    if l4 < l3 + 20 || payload.len() <= usize::from(size) {
        return None;
    }
    // The sum of a datagram is over all of it.
    let whole = completed(frame, offload)?;
    let payload = match kind {
        Segments::UdpFragments => whole.get(body..)?,
        _ => payload,
    };
    let mut frames = Vec::new();
    let mut done = 0;
    for piece in payload.chunks(usize::from(size)).take(SEGMENTS_MAX) {
        let mut frame = [headers, piece].concat();
        let len = u16::try_from(frame.len() - l3).unwrap_or(u16::MAX);
        let is_last = done + piece.len() == payload.len();
        if is_v4 {
            frame[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
        } else {
            frame[l3 + 4..l3 + 6].copy_from_slice(&len.saturating_sub(40).to_be_bytes());
        }
        if let Segments::UdpFragments = kind {
            let more = if is_last { 0 } else { 0x2000 };
            let place = u16::try_from(done >> 3).unwrap_or(0) & 0x1fff | more;
            frame[l3 + 6..l3 + 8].copy_from_slice(&place.to_be_bytes());
            frames.push(frame);
        } else {
            frames.extend(completed(&frame, offload));
        }
        done += piece.len();
    }
    Some(frames)
}
