// SPDX-License-Identifier: Apache-2.0
//! The driver of a NIC, a mirror: whatever comes goes back to where it came from, as if from
//! where it was sent. So a host's TCP and UDP can talk to themselves across the NIC.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use loadgen::memory::Memory;
use loadgen::net::{Direction, HEADER_BYTES, Queue};
use loadgen::ring::RingOptions;
use vmm::virtio::Device;

use crate::driver::{Notify, activate};
use crate::vcpu::Vcpu;

/// VERSION_1, EVENT_IDX, MRG_RXBUF; CSUM and GUEST_CSUM; segmentation of TCP and UDP both ways.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 15 | 0b11 | 0b11 << 7 | 0b11 << 11 | 0b111 << 54;
/// The entries of a queue, and the length of a buffer: to receive into, and for what is sent, which
/// may be segmented later.
const SIZE: u16 = 128;
const RECEIVE_BYTES: u32 = 2048;
const TRANSMIT_BYTES: u32 = 68 << 10;
/// Addresses in a frame: two of Ethernet, at its beginning; its type; two of IPv4.
const MACS: std::ops::Range<usize> = 0..12;
const KIND: std::ops::Range<usize> = 12..14;
const IPV4: [u8; 2] = [8, 0];
const IPS: std::ops::Range<usize> = 26..34;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM
const NEEDS_CSUM: u8 = 1;
/// After so long without a frame the driver sends one of its own.
const SILENCE: Duration = Duration::from_millis(100);
/// How long the device may leave no room.
const PATIENCE: Duration = Duration::from_secs(150);

/// The queues that the driver uses.
#[derive(Debug)]
pub(crate) struct Nic {
    mac: [u8; 6],
    receive: Queue,
    transmit: Queue,
    /// Kinds of segmentation that were seen.
    segmented: BTreeSet<u8>,
    /// A frame for which there was no room yet, and since when.
    pending: Option<Vec<u8>>,
    stuck: Option<Instant>,
}

/// Puts one pair of queues into memory and lets the device run.
pub(crate) fn start(
    device: &Device,
    memory: &mut Memory,
    mac: [u8; 6],
    notify: &[Notify; 2],
    vcpu: &Vcpu,
) -> Result<Nic> {
    let options = RingOptions {
        size: SIZE,
        event_idx: true,
        start: 0,
    };
    let mut nic = Nic {
        mac,
        receive: Queue::new(memory, options, RECEIVE_BYTES, Direction::Receive)?,
        transmit: Queue::new(memory, options, TRANSMIT_BYTES, Direction::Transmit)?,
        segmented: BTreeSet::new(),
        pending: None,
        stuck: None,
    };
    let [receive, transmit] = notify;
    nic.receive.fds = Arc::clone(&receive.fds);
    nic.transmit.fds = Arc::clone(&transmit.fds);
    let rings = [(&nic.receive.ring, receive), (&nic.transmit.ring, transmit)];
    activate(device, FEATURES, &rings, vcpu)?;
    Ok(nic)
}

impl Nic {
    /// Sends back what comes, until it is to stop.
    pub(crate) fn mirror(&mut self, stop: &AtomicBool, mut console: File) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.wait()?;
            for kind in self.send_back()? {
                writeln!(console, "DRIVER segmentation={kind}")?;
            }
        }
        Ok(())
    }

    /// Sends back what has come, as far as there is room. Kinds of segmentation that were not seen
    /// before.
    pub(crate) fn send_back(&mut self) -> Result<Vec<u8>> {
        let mut seen = Vec::new();
        loop {
            self.transmit.reap()?;
            if let Some(frame) = &self.pending {
                if !self.transmit.offer(frame) {
                    break;
                }
                (self.pending, self.stuck) = (None, None);
            }
            self.transmit.show();
            let Some(mut frame) = self.receive.receive()? else {
                break;
            };
            self.receive.offer_room(SIZE);
            self.receive.show();
            let Some((header, body)) = frame.split_first_chunk_mut::<HEADER_BYTES>() else {
                continue;
            };
            if self.segmented.insert(header[1]) {
                seen.push(header[1]);
            }
            turn_header(header);
            turn(body);
            self.pending = Some(frame);
        }
        Ok(seen)
    }

    /// Waits for a moment until there is something to do.
    pub(crate) fn wait(&mut self) -> Result<()> {
        if self.pending.is_some() {
            let since = *self.stuck.get_or_insert_with(Instant::now);
            ensure!(since.elapsed() < PATIENCE, "the device sends nothing");
            self.transmit.wait(Duration::ZERO, SILENCE);
        } else if !self.receive.wait(Duration::ZERO, SILENCE) {
            self.pending = Some(self.sign_of_life());
        }
        Ok(())
    }

    /// A frame to everybody, of a type for experiments.
    fn sign_of_life(&self) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend([0xff; 6]);
        frame.extend(self.mac);
        frame.extend([0x88, 0xb6]);
        frame.resize(HEADER_BYTES + 60, 0);
        frame
    }
}

/// Makes the header of a received frame one of a frame to be sent.
fn turn_header(header: &mut [u8; HEADER_BYTES]) {
    let [flags, .., low, high] = header;
    // Sums that were checked are not to be said.
    *flags &= NEEDS_CSUM;
    (*low, *high) = (0, 0);
}

/// Exchanges sender and receiver. No sum changes.
fn turn(frame: &mut [u8]) {
    if frame.get(KIND) == Some(&IPV4)
        && let Some(addresses) = frame.get_mut(IPS)
    {
        addresses.rotate_left(4);
    }
    if let Some(addresses) = frame.get_mut(MACS) {
        addresses.rotate_left(6);
    }
}
