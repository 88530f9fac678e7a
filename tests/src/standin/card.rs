// SPDX-License-Identifier: Apache-2.0
//! The driver of a network card: whatever comes it sends back to where it came from.

use std::time::Duration;

use anyhow::Result;
use loadgen::memory::Memory;
use loadgen::net::{Direction, HEADER_BYTES, Queue};
use loadgen::ring::RingOptions;
use vmm::virtio::Device;

use crate::driver::activate;

/// VERSION_1, EVENT_IDX, MRG_RXBUF.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 15;
/// The entries of a queue, and the length of a buffer.
const SIZE: u16 = 128;
const BUFFER_BYTES: u32 = 2048;
/// The length of a MAC address: the receiver's and the sender's are at the beginning of a frame.
const MAC: usize = 6;

/// The queues that the driver uses.
#[derive(Debug)]
pub(crate) struct Card {
    receive: Queue,
    transmit: Queue,
}

/// Puts one pair of queues into memory and lets the device run.
pub(crate) fn start(device: &Device, memory: &mut Memory) -> Result<Card> {
    let options = RingOptions {
        size: SIZE,
        event_idx: true,
        start: 0,
    };
    let mut queue = |direction| Queue::new(memory, options, BUFFER_BYTES, direction);
    let card = Card {
        receive: queue(Direction::Receive)?,
        transmit: queue(Direction::Transmit)?,
    };
    let rings = [&card.receive, &card.transmit].map(|queue| (&queue.ring, &queue.fds));
    activate(device, FEATURES, &rings)?;
    Ok(card)
}

impl Card {
    /// Sends back what comes, for ever.
    pub(crate) fn echo(&mut self) -> Result<()> {
        loop {
            self.receive.wait(Duration::ZERO, Duration::from_secs(1));
            while let Some(mut frame) = self.receive.receive()? {
                self.receive.offer_room(SIZE);
                self.receive.show();
                let Some((header, body)) = frame.split_at_mut_checked(HEADER_BYTES) else {
                    continue;
                };
                header.fill(0);
                if let Some(addresses) = body.get_mut(..2 * MAC) {
                    addresses.rotate_left(MAC);
                }
                self.transmit.reap()?;
                // Without room it is lost, as frames are.
                let _ = self.transmit.offer(&frame);
                self.transmit.show();
            }
        }
    }
}
