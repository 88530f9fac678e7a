// SPDX-License-Identifier: Apache-2.0
//! From the tap to the guest: reads each frame straight into the guest's buffers, checks whether
//! the driver wants it, and marks the buffers used. A frame in several buffers is published as one.
//!
//! While the guest has no buffers the worker reads nothing: frames wait in the tap, which drops
//! what it has no room for, as any NIC does. At most one frame is held here, if the guest's buffers
//! turn out to be too few for it. Runs on the worker thread that owns the queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

use device_backend::chain::Chain;
use device_backend::memory::Memory;
use device_backend::queue_state::{Change, QueueFault, QueueState, Serving};
use device_backend::vring::Vring;
use ipc::health::QueueHealth;

use crate::header::{Header, NUM_BUFFERS};
use crate::rx_buffers::RxBuffers;
use crate::settings::Settings;
use crate::shared::Shared;

/// The most frames before the other direction gets its turn.
const BATCH: u32 = 64;
/// After so many frames the driver is called, before the rest of the batch is read.
const CALL_EVERY: u32 = 16;
/// Enough for usual frames without segmentation offload.
const REACH_SHORT_BYTES: usize = 2048;
/// Enough for every frame.
const REACH_LONG_BYTES: usize = 66 << 10;
/// After so many short frames in a row no long ones are expected.
const SHORT_MAX: u32 = 256;
/// Header, addresses, VLAN tag and type.
const PEEK_BYTES: usize = host::tap::HEADER_BYTES + 18;

/// One receive queue.
#[derive(Debug, Default)]
pub struct Receiver {
    /// Its ring.
    pub queue: QueueState,
    chain: Chain,
    room: RxBuffers,
    /// The length of a frame that was read and waits for more buffers.
    held: Option<usize>,
    /// Whether nothing can be done until the guest offers buffers.
    starved: bool,
    /// How many frames in a row were short.
    short: u32,
    /// The last read found no tap behind the descriptor.
    unplugged: bool,
}

/// What has happened to a frame.
enum Outcome {
    Delivered(usize),
    /// Counted, and not delivered.
    Dropped,
    /// The guest has too few buffers for it.
    Held,
}

impl Receiver {
    /// Follows the frontend's changes of the ring and the memory.
    pub fn follow(&mut self, vring: &Vring, memory: &Memory) -> Result<Change, QueueFault> {
        let unused = self.room.heads();
        let change = self.queue.follow(vring, memory, unused);
        if !matches!(change, Ok(Change::None)) {
            let memory = self.queue.serving().map(|serving| serving.memory.clone());
            self.room.reset(memory);
            (self.held, self.starved) = (None, false);
        }
        change
    }

    /// Whether the last read found no tap: it was deleted, or this queue is not in use.
    pub fn is_unplugged(&self) -> bool {
        self.unplugged
    }

    /// Stops serving the ring.
    pub fn leave(&mut self) {
        self.queue.leave();
        self.room.reset(None);
        (self.held, self.starved) = (None, false);
    }

    /// Reads a batch of frames; returns whether there were any.
    pub fn run(
        &mut self,
        tap: impl AsFd,
        settings: &Settings,
        shared: &Shared,
        health: &QueueHealth,
    ) -> Result<bool, QueueFault> {
        let mut worked = false;
        let mut received_bytes = 0;
        let mut delivered = 0;
        for _ in 0..BATCH {
            let Some(len_bytes) = self.next(tap.as_fd(), settings)? else {
                break;
            };
            worked = true;
            match self.deliver(len_bytes, settings, shared)? {
                Outcome::Delivered(bytes) => {
                    received_bytes += bytes as u64;
                    delivered += 1;
                    if delivered % CALL_EVERY == 0 {
                        self.call();
                    }
                }
                Outcome::Dropped => {
                    health.errors.fetch_add(1, Relaxed);
                }
                Outcome::Held => {
                    worked = delivered > 0;
                    break;
                }
            }
        }
        if delivered > 0 {
            self.call();
            health.requests.fetch_add(u64::from(delivered), Relaxed);
            health.read_bytes.fetch_add(received_bytes, Relaxed);
        }
        if let Some(serving) = self.queue.serving().filter(|_| worked) {
            health
                .last_avail
                .store(serving.ring.next_avail().into(), Relaxed);
            health.used.store(serving.ring.next_used().into(), Relaxed);
        }
        Ok(worked)
    }

    fn call(&mut self) {
        if let Some(serving) = self.queue.serving() {
            serving.call();
        }
    }

    /// The length of the next frame: the one that is held, or a new one.
    fn next(
        &mut self,
        tap: BorrowedFd<'_>,
        settings: &Settings,
    ) -> Result<Option<usize>, QueueFault> {
        if let Some(held) = self.held {
            return Ok(Some(held));
        }
        let reach = if self.short < SHORT_MAX {
            REACH_LONG_BYTES
        } else {
            REACH_SHORT_BYTES
        };
        self.fill(reach, settings)?;
        self.starved = self.room.heads() == 0;
        if self.starved || !self.queue.is_running() {
            return Ok(None);
        }
        match self.room.read(tap, reach) {
            Ok(len_bytes) => Ok(Some(len_bytes)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) => {
                self.unplugged = e.raw_os_error() == Some(libc::EBADFD);
                // There is no frame, the interface is down, or this queue is not in use.
                Ok(None)
            }
        }
    }

    /// Takes buffers from the guest until so much fits, as far as there are any.
    fn fill(&mut self, bytes: usize, settings: &Settings) -> Result<(), QueueFault> {
        let Self {
            queue, chain, room, ..
        } = self;
        let Some(serving) = queue.serving() else {
            return Ok(());
        };
        let enough = |room: &RxBuffers| {
            room.room_bytes() >= bytes || (!settings.mergeable && room.heads() > 0)
        };
        if enough(room) {
            return Ok(());
        }
        let mut available = serving.ring.known()?;
        if available > 0 {
            serving.ring.disable_kicks();
        }
        while available > 0 && !enough(room) {
            let Serving { ring, memory, .. } = &mut *serving;
            let head = ring.take()?;
            chain
                .walk(ring, memory, head, settings.indirect)
                .map_err(|e| QueueFault::Chain(head, e))?;
            // "The device-readable part of a receive chain is empty, the other is not."
            if !chain.readable.is_empty() || chain.writable.is_empty() {
                return Err(QueueFault::Useless(head));
            }
            room.add(head, &chain.writable)
                .map_err(|_| QueueFault::Useless(head))?;
            available -= 1;
        }
        Ok(())
    }

    /// Delivers a frame that was read, if the driver wants it and it fits.
    fn deliver(
        &mut self,
        len_bytes: usize,
        settings: &Settings,
        shared: &Shared,
    ) -> Result<Outcome, QueueFault> {
        if self.held.is_none() && !self.is_wanted(len_bytes, settings, shared) {
            return Ok(Outcome::Dropped);
        }
        self.note_length(len_bytes);
        self.fill(len_bytes, settings)?;
        let chains = self.room.chains_for(len_bytes);
        let Some(serving) = self.queue.serving() else {
            return Ok(Outcome::Held);
        };
        let Some(chains) = chains.filter(|chains| *chains == 1 || settings.mergeable) else {
            // The frame may not take several chains, or needs more than the whole ring has.
            if !settings.mergeable || self.room.heads() >= serving.ring.size() {
                self.held = None;
                shared.drops().too_long.fetch_add(1, Relaxed);
                return Ok(Outcome::Dropped);
            }
            (self.held, self.starved) = (Some(len_bytes), true);
            return Ok(Outcome::Held);
        };
        self.held = None;
        self.room.settle(len_bytes);
        if settings.header_bytes > NUM_BUFFERS {
            self.room.write(NUM_BUFFERS, &chains.to_le_bytes());
        }
        let mut left = len_bytes;
        for _ in 0..chains {
            let Some((head, bytes)) = self.room.take(left) else {
                break;
            };
            let used_bytes = u32::try_from(bytes).unwrap_or(0);
            serving.ring.push_used(head, used_bytes);
            left -= bytes;
        }
        serving.publish();
        Ok(Outcome::Delivered(len_bytes))
    }

    fn is_wanted(&self, len_bytes: usize, settings: &Settings, shared: &Shared) -> bool {
        let drops = shared.drops();
        let mut peek = [0; PEEK_BYTES];
        let peek = &mut peek[..len_bytes.min(PEEK_BYTES)];
        self.room.peek(peek);
        let frame = peek.get(settings.header_bytes..).unwrap_or_default();
        let counter = match Header::parse(peek) {
            _ if !settings.link_up => &drops.down,
            Some(header) if !header.fits(settings.offloads) => &drops.offload,
            Some(_) if settings.filter.wants(frame) => return true,
            _ => &drops.unwanted,
        };
        counter.fetch_add(1, Relaxed);
        false
    }

    /// Prepares for long frames as soon as one comes, and for short ones after many short ones.
    fn note_length(&mut self, len_bytes: usize) {
        self.short = if len_bytes > REACH_SHORT_BYTES {
            0
        } else {
            self.short.saturating_add(1)
        };
    }

    /// Enables kicks if buffers are missing; returns whether there are still none after that.
    pub fn may_sleep(&mut self) -> bool {
        let starved = self.starved;
        let Some(serving) = self.queue.serving().filter(|_| starved) else {
            return true;
        };
        serving.ring.enable_kicks();
        matches!(serving.ring.available(), Ok(0))
    }
}
