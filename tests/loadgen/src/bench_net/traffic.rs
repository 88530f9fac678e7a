// SPDX-License-Identifier: Apache-2.0
//! The frames that are measured with, and the host's side of the tap.

use std::time::Duration;

use anyhow::{Context, Result};
use loadgen::histogram::Histogram;
use loadgen::net::HEADER_BYTES;
use loadgen::net::host::{Interface, Packets};
use loadgen::random::Random;

use super::LONG;
use crate::report::precise;

/// The MTU of the tap.
const SEGMENT: u16 = 1448;
/// Memory for what waits in a tap.
const WAITING_BYTES: usize = 96 << 20;
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Nobody's.
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// The host's address on the tap.
const HOST_IP: [u8; 4] = [10, 99, 0, 1];

/// A frame with its header; one that is to be segmented if it is long.
pub(crate) fn frame(len: usize, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    if len == LONG {
        // NEEDS_CSUM at the TCP header, TCP over IPv4.
        frame = vec![1, 1, 54, 0];
        for field in [SEGMENT, 34, 16, 0] {
            frame.extend(field.to_le_bytes());
        }
    }
    frame.extend([to, from].concat());
    frame.extend(ip_header(len - 14));
    // TCP: ports, sequence, acknowledgement, length of the header, window.
    frame.extend([0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    frame.resize(HEADER_BYTES + len, 0x5a);
    frame
}

/// An IPv4 header from this network to nowhere.
fn ip_header(total_bytes: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(total_bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![8, 0, 0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0];
    header.extend([10, 99, 0, 2, 10, 99, 0, 3]);
    let words = header[2..].as_chunks::<2>().0;
    let sum: u32 = words
        .iter()
        .map(|w| u32::from(u16::from_be_bytes(*w)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
    header[12..14].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// What the guest sends: nobody on the host wants it.
pub(crate) fn outgoing(len: usize) -> Vec<u8> {
    frame(len, STRANGER, GUEST)
}

/// What asks the host's kernel for an answer: who has its address? (RFC 826)
pub(crate) fn question() -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend([0xff; 6]);
    frame.extend(GUEST);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST);
    frame.extend([10, 99, 0, 2, 0, 0, 0, 0, 0, 0]);
    frame.extend(HOST_IP);
    frame.resize(HEADER_BYTES + 60, 0);
    frame
}

/// The host's side of a tap that somebody has open.
pub(crate) struct Host {
    packets: Packets,
}

impl Host {
    /// Brings the interface up, with room for what is to wait in it.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let interface = Interface::of(name)?;
        interface.set_queue_len(200_000).context("queue length")?;
        interface.set_address(HOST_IP).context("address")?;
        interface.set_up(true).context("up")?;
        // Multicast of the kernel's own, and its answers to it, are over.
        std::thread::sleep(Duration::from_millis(20));
        Ok(Self {
            packets: interface.packets(true)?,
        })
    }

    /// Lets frames wait in the tap. How many.
    pub(crate) fn fill(&self, len: usize) -> Result<usize> {
        // A socket's header is the old one, of ten bytes.
        let frame = frame(len, GUEST, STRANGER);
        let frame = [&frame[..10], &frame[HEADER_BYTES..]].concat();
        // What a short one takes in the kernel.
        let count = (WAITING_BYTES / (len + 1024)).min(40_000);
        for _ in 0..count {
            self.packets.send(&frame).context("sending on the host")?;
        }
        Ok(count)
    }
}

/// The middle and the 99th percentile of latencies in ns, in µs.
pub(crate) fn percentiles(latencies: &Histogram) -> (f64, f64) {
    let us = |per_mille| precise(latencies.at(per_mille)) / 1e3;
    (us(500), us(990))
}

/// A pause between two questions, so that they do not march in step with anything.
pub(crate) fn pause(random: &mut Random) {
    let until = std::time::Instant::now() + Duration::from_nanos(random.number() % 4_000);
    while std::time::Instant::now() < until {
        std::hint::spin_loop();
    }
}
