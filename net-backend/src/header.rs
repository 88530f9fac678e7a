// SPDX-License-Identifier: Apache-2.0
//! The header in front of each frame: `struct virtio_net_hdr` (virtio 1.2, §5.1.6).

use host::tap::{HEADER_BYTES, LEGACY_HEADER_BYTES, offload};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MRG_RXBUF,
};

use crate::config::has;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN, a flag beside one of the others.
const ECN: u8 = 0x80;
/// Where `num_buffers` is in the header.
pub const NUM_BUFFERS: usize = 10;

/// VIRTIO_NET_HDR_GSO_*
mod gso {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const UDP: u8 = 3;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
}

/// A header that is malformed, or asks for what was not negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header of a frame makes no sense")]
pub struct HeaderFault;

/// The length of the header with the acknowledged features.
pub fn len_bytes(acked: u64) -> usize {
    if has(acked, VIRTIO_F_VERSION_1) || has(acked, VIRTIO_NET_F_MRG_RXBUF) {
        HEADER_BYTES
    } else {
        LEGACY_HEADER_BYTES
    }
}

/// What the kernel is to do to a frame after it has left this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Where the bytes to sum up begin.
    pub checksum_start: u16,
    /// Where to write the sum, counted from there.
    pub checksum_offset: u16,
    /// The kind of the segments, and how many bytes of payload each gets.
    pub segments: Option<(Segments, u16)>,
}

/// The kind of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// Segments of TCP over IPv4.
    Tcp4,
    /// Segments of TCP over IPv6.
    Tcp6,
    /// Fragments of a UDP datagram.
    UdpFragments,
    /// Datagrams of UDP.
    Udp,
}

/// A header as the driver or the tap wrote it, copied once.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Header {
    /// Reads it from the beginning of a frame; only the kernel uses the hint `hdr_len`.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<LEGACY_HEADER_BYTES>()?;
        let [flags, gso_type, _, _, g0, g1, s0, s1, o0, o1] = *head;
        Some(Self {
            flags,
            gso_type,
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        })
    }

    /// Whether a driver with these acknowledged features may send it, with a frame of this length.
    pub fn check(&self, acked: u64, frame_bytes: usize) -> Result<(), HeaderFault> {
        let checksum = self.flags & NEEDS_CSUM != 0;
        if checksum {
            // "The driver MUST NOT set VIRTIO_NET_HDR_F_NEEDS_CSUM … if VIRTIO_NET_F_CSUM was not
            // negotiated" (§5.1.6.2.1), and the checksum's place is in the frame.
            let end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
            if !has(acked, VIRTIO_NET_F_CSUM) || end > frame_bytes {
                return Err(HeaderFault);
            }
        }
        if self.gso_type == gso::NONE {
            return Ok(());
        }
        let needed = match self.gso_type & !ECN {
            gso::TCPV4 => VIRTIO_NET_F_HOST_TSO4,
            gso::TCPV6 => VIRTIO_NET_F_HOST_TSO6,
            gso::UDP => VIRTIO_NET_F_HOST_UFO,
            gso::UDP_L4 => VIRTIO_NET_F_HOST_USO,
            _ => return Err(HeaderFault),
        };
        let ecn = self.gso_type & ECN == 0 || has(acked, VIRTIO_NET_F_HOST_ECN);
        // The kernel takes the largest size for GSO_BY_FRAGS.
        let size = self.gso_size > 0 && self.gso_size < u16::MAX;
        if checksum && ecn && size && has(acked, needed) {
            Ok(())
        } else {
            Err(HeaderFault)
        }
    }

    /// What a checked header asks the kernel to do.
    pub fn offload(&self) -> Option<Offload> {
        let segments = match self.gso_type & !ECN {
            gso::TCPV4 => Some(Segments::Tcp4),
            gso::TCPV6 => Some(Segments::Tcp6),
            gso::UDP => Some(Segments::UdpFragments),
            gso::UDP_L4 => Some(Segments::Udp),
            _ => None,
        };
        (self.flags & NEEDS_CSUM != 0).then(|| Offload {
            checksum_start: self.csum_start,
            checksum_offset: self.csum_offset,
            segments: segments.map(|kind| (kind, self.gso_size)),
        })
    }

    /// The flags that were checked; a later kernel may know more. "The device MUST ignore flag bits
    /// that it does not recognize" (§5.1.6.2.2).
    pub fn known_flags(&self) -> u8 {
        self.flags & NEEDS_CSUM
    }

    /// Whether a driver with these offloads of the tap can take the frame.
    pub fn fits(&self, offloads: u32) -> bool {
        let needed = match self.gso_type & !ECN {
            gso::NONE => 0,
            gso::TCPV4 => offload::TSO4,
            gso::TCPV6 => offload::TSO6,
            gso::UDP => offload::UFO,
            gso::UDP_L4 => offload::USO4 | offload::USO6,
            _ => return false,
        };
        let any = needed == 0 || offloads & needed != 0;
        any && (self.flags & NEEDS_CSUM == 0 || offloads & offload::CSUM != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    fn header(flags: u8, gso_type: u8, gso_size: u16, start: u16, offset: u16) -> Header {
        let mut bytes = vec![flags, gso_type, 0, 0];
        for field in [gso_size, start, offset] {
            bytes.extend(field.to_le_bytes());
        }
        Header::parse(&bytes).unwrap()
    }

    #[test]
    fn header_too_short_is_none() {
        assert!(Header::parse(&[0; 9]).is_none());
    }

    #[test]
    fn checksum_outside_the_frame_is_refused() {
        assert!(header(1, 0, 0, 34, 16).check(ALL, 52).is_ok());
        assert!(header(1, 0, 0, 34, 16).check(ALL, 51).is_err());
        assert!(header(1, 0, 0, u16::MAX, u16::MAX).check(ALL, 60).is_err());
    }

    #[test]
    fn segmentation_not_negotiated_or_without_size_or_checksum_is_refused() {
        let features = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4;
        assert!(header(1, 1, 1448, 34, 16).check(features, 4000).is_ok());
        assert!(header(1, 0x81, 1448, 34, 16).check(features, 4000).is_err());
        assert!(header(1, 4, 1448, 34, 16).check(features, 4000).is_err());
        assert!(header(1, 1, 0, 34, 16).check(features, 4000).is_err());
        assert!(
            header(1, 1, u16::MAX, 34, 16)
                .check(features, 4000)
                .is_err()
        );
        assert!(header(0, 1, 1448, 34, 16).check(features, 4000).is_err());
        assert!(header(1, 1, 1448, 34, 16).check(0, 4000).is_err());
    }

    #[test]
    fn segmentation_needs_the_feature_of_its_kind() {
        for (kind, feature) in [
            (1, VIRTIO_NET_F_HOST_TSO4),
            (4, VIRTIO_NET_F_HOST_TSO6),
            (3, VIRTIO_NET_F_HOST_UFO),
            (5, VIRTIO_NET_F_HOST_USO),
        ] {
            let header = header(1, kind, 1448, 34, 16);
            let features = 1 << VIRTIO_NET_F_CSUM | 1 << feature;
            assert!(header.check(features, 4000).is_ok(), "{kind}");
            assert!(header.check(ALL & !(1 << feature), 4000).is_err(), "{kind}");
        }
    }

    #[test]
    fn segmentation_of_an_unknown_kind_is_refused() {
        // Among them: AccECN, and tunnels over IPv4, IPv6 and both.
        for kind in [2, 6, 0x11, 0x21, 0x41, 0x61, 0x7f, 0x80, 0x86] {
            assert!(header(1, kind, 1448, 34, 16).check(ALL, 4000).is_err());
            assert!(kind == ECN || !header(1, kind, 1448, 34, 16).fits(u32::MAX));
        }
    }

    #[test]
    fn offload_is_what_the_kernel_is_asked_to_do() {
        let plain = header(2, 0, 0, 34, 16);
        assert_eq!((plain.offload(), plain.known_flags()), (None, 0));
        for (kind, segments) in [
            (0, None),
            (0x81, Some(Segments::Tcp4)),
            (3, Some(Segments::UdpFragments)),
            (4, Some(Segments::Tcp6)),
            (5, Some(Segments::Udp)),
        ] {
            let header = header(0xff, kind, 1448, 34, 16);
            let offload = Offload {
                checksum_start: 34,
                checksum_offset: 16,
                segments: segments.map(|kind| (kind, 1448)),
            };
            assert_eq!(header.offload(), Some(offload), "{kind}");
            assert_eq!(header.known_flags(), NEEDS_CSUM);
        }
    }

    #[test]
    fn offload_that_was_switched_off_does_not_fit() {
        let all = offload::CSUM | offload::TSO4;
        assert!(header(1, 1, 1448, 34, 16).fits(all));
        assert!(!header(1, 1, 1448, 34, 16).fits(offload::CSUM));
        assert!(!header(1, 0, 0, 34, 16).fits(0));
        assert!(header(0, 0, 0, 0, 0).fits(0));
        for (kind, offloads) in [
            (1, [offload::TSO4, offload::TSO4]),
            (4, [offload::TSO6, offload::TSO6]),
            (3, [offload::UFO, offload::UFO]),
            (5, [offload::USO4, offload::USO6]),
        ] {
            let header = header(1, kind, 1448, 34, 16);
            for own in offloads {
                assert!(header.fits(offload::CSUM | own), "{kind}");
            }
            let own = offloads[0] | offloads[1];
            assert!(!header.fits(!own), "{kind}");
        }
    }

    #[test]
    fn length_is_that_of_the_old_header_only_for_old_drivers() {
        assert_eq!(len_bytes(0), 10);
        assert_eq!(len_bytes(1 << VIRTIO_NET_F_MRG_RXBUF), 12);
        assert_eq!(len_bytes(1 << VIRTIO_F_VERSION_1), 12);
    }
}
