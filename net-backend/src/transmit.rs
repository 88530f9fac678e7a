// SPDX-License-Identifier: Apache-2.0
//! From the guest to the tap: pops a frame, checks it, sends it, marks it used. A frame is marked
//! used once the tap has it, or once it was dropped and counted; so a process that takes over
//! repeats at most the one frame that was sent and not yet published.
//!
//! Runs on the worker thread that owns the queue.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::chain::Chain;
use device_backend::queue_state::{QueueFault, QueueState};
use ipc::health::{BACKPRESSURED, QueueHealth};

use crate::anti_spoof::Rules;
use crate::anti_spoof::packet::Frame;
use crate::header::Header;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::tx_frame::TxFrame;

/// The most frames before the other direction gets its turn, and before the driver is called.
const BATCH: u16 = 64;
/// Addresses and type: a frame is not shorter.
const FRAME_MIN_BYTES: usize = 14;

/// One transmit queue.
#[derive(Debug, Default)]
pub struct Transmitter {
    /// Its ring.
    pub queue: QueueState,
    chain: Chain,
    frame: TxFrame,
    blocked: bool,
}

/// What has happened to a frame.
enum Outcome {
    Sent,
    /// Counted, and not sent.
    Dropped,
    /// The tap is full.
    Blocked,
}

impl Transmitter {
    /// The tap may have room again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Whether there is a frame that could be sent.
    pub fn is_ready(&mut self) -> bool {
        let blocked = self.blocked;
        let serving = self.queue.serving().filter(|_| !blocked);
        // `run` meets the same error, and handles it.
        serving.is_some_and(|serving| !matches!(serving.ring.available(), Ok(0)))
    }

    /// Sends a batch of frames; returns whether there were any.
    pub fn run(
        &mut self,
        tap: impl AsFd,
        settings: &Settings,
        shared: &Shared,
        health: &QueueHealth,
    ) -> Result<bool, QueueFault> {
        let Self {
            queue,
            chain,
            frame,
            blocked,
        } = self;
        let Some(serving) = queue.serving().filter(|_| !*blocked) else {
            return Ok(false);
        };
        let available = serving.ring.available()?.min(BATCH);
        if available == 0 {
            return Ok(false);
        }
        serving.ring.disable_kicks();
        let mut sent_bytes = 0;
        let mut used = 0;
        for _ in 0..available {
            let head = serving.ring.take()?;
            chain
                .walk(&serving.ring, &serving.memory, head, settings.indirect)
                .map_err(|e| QueueFault::Chain(head, e))?;
            let loaded = frame.load(&serving.memory, &chain.readable);
            let whole = loaded.is_ok() && chain.writable.is_empty();
            match send(frame, whole, tap.as_fd(), settings, shared) {
                Outcome::Sent => sent_bytes += frame.len_bytes() as u64,
                Outcome::Dropped => {
                    health.errors.fetch_add(1, Relaxed);
                }
                Outcome::Blocked => {
                    let head = serving.ring.next_avail().wrapping_sub(1);
                    serving.ring.set_next_avail(head);
                    *blocked = true;
                    break;
                }
            }
            serving.ring.push_used(head, 0);
            serving.publish();
            used += 1;
        }
        serving.call();
        health.requests.fetch_add(used, Relaxed);
        health.written_bytes.fetch_add(sent_bytes, Relaxed);
        health
            .last_avail
            .store(serving.ring.next_avail().into(), Relaxed);
        health.used.store(serving.ring.next_used().into(), Relaxed);
        let flag = if *blocked { BACKPRESSURED } else { 0 };
        if health.flags.load(Relaxed) & BACKPRESSURED != flag {
            health.flags.fetch_xor(BACKPRESSURED, Relaxed);
        }
        Ok(used > 0)
    }

    /// Enables kicks; returns whether the queue is still empty after that.
    pub fn may_sleep(&mut self) -> bool {
        let blocked = self.blocked;
        let Some(serving) = self.queue.serving().filter(|_| !blocked) else {
            return true;
        };
        serving.ring.enable_kicks();
        matches!(serving.ring.available(), Ok(0))
    }
}

/// Sends a frame, if it passes the checks.
fn send(
    frame: &mut TxFrame,
    whole: bool,
    tap: std::os::fd::BorrowedFd<'_>,
    settings: &Settings,
    shared: &Shared,
) -> Outcome {
    let drops = shared.drops();
    let drop = |counter: &AtomicU64| {
        counter.fetch_add(1, Relaxed);
        Outcome::Dropped
    };
    let head = frame.head();
    let body = head.get(settings.header_bytes..).unwrap_or_default();
    if !whole || body.len() < FRAME_MIN_BYTES {
        return drop(&drops.frame);
    }
    let len_bytes = frame.len_bytes() - settings.header_bytes;
    let header = Header::parse(head).filter(|h| h.check(settings.features, len_bytes).is_ok());
    let Some(header) = header else {
        return drop(&drops.header);
    };
    let rules = Rules {
        guard: &shared.nic.guard,
        mac: shared.nic.mac,
    };
    let outgoing = Frame {
        head: body,
        len_bytes,
        offload: header.offload(),
    };
    if let Err(violation) = rules.check(&outgoing) {
        return drop(violation.counter(drops));
    }
    if !settings.link_up {
        return drop(&drops.down);
    }
    frame.set_flags(header.known_flags());
    match frame.send(tap) {
        Ok(_) => Outcome::Sent,
        Err(e) => match (e.kind(), e.raw_os_error()) {
            (io::ErrorKind::WouldBlock, _) => Outcome::Blocked,
            // The interface is down, or this queue is not in use.
            (_, Some(libc::EIO | libc::EBADFD)) => drop(&drops.down),
            (_, Some(libc::EINVAL)) => drop(&drops.header),
            _ => drop(&drops.host),
        },
    }
}
