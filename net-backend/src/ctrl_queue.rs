// SPDX-License-Identifier: Apache-2.0
//! The control queue: takes the driver's commands, has them carried out, and answers.
//!
//! The backend serves it and not the vmm, because the vmm reads no descriptors. Runs on the worker
//! thread that owns the queue; a command is stored before it is answered.

use std::sync::atomic::Ordering::Relaxed;

use device_backend::chain::{Buffer, Chain};
use device_backend::queue_state::{QueueFault, QueueState, Serving};
use virtio_bindings::virtio_net::{VIRTIO_NET_ERR, VIRTIO_NET_OK};
use vm_memory::Bytes;

use crate::ctrl_commands::{COMMAND_MAX_BYTES, Command, CommandFault};
use crate::shared::Shared;

/// The most commands before the frames get their turn.
const BATCH: u16 = 8;

/// The control queue.
#[derive(Debug, Default)]
pub struct CtrlQueue {
    /// Its ring.
    pub queue: QueueState,
    chain: Chain,
}

impl CtrlQueue {
    /// Carries out the pending commands; returns whether there were any.
    pub fn run(&mut self, indirect: bool, shared: &Shared) -> Result<bool, QueueFault> {
        let Self { queue, chain } = self;
        let Some(serving) = queue.serving() else {
            return Ok(false);
        };
        let available = serving.ring.available()?.min(BATCH);
        for _ in 0..available {
            let head = serving.ring.take()?;
            chain
                .walk(&serving.ring, &serving.memory, head, indirect)
                .map_err(|e| QueueFault::Chain(head, e))?;
            let written = answer(serving, chain, shared);
            serving.ring.push_used(head, written);
            serving.publish();
        }
        if available > 0 {
            serving.call();
        }
        Ok(available > 0)
    }

    /// Enables kicks; returns whether the queue is still empty after that.
    pub fn may_sleep(&mut self) -> bool {
        let Some(serving) = self.queue.serving() else {
            return true;
        };
        serving.ring.enable_kicks();
        matches!(serving.ring.available(), Ok(0))
    }
}

/// Carries out one command; returns how many bytes the answer has.
fn answer(serving: &Serving, chain: &Chain, shared: &Shared) -> u32 {
    let outcome = match (copy(serving, &chain.readable), chain.writable.first()) {
        (Some((bytes, whole)), Some(_)) => {
            let parse = if whole {
                Command::parse
            } else {
                Command::parse_long
            };
            parse(&bytes).and_then(|command| shared.obey(command))
        }
        _ => Err(CommandFault::Malformed),
    };
    let drops = shared.drops();
    let status = match outcome {
        Ok(()) => VIRTIO_NET_OK,
        Err(fault) => {
            let counter = match fault {
                CommandFault::Malformed => &drops.command,
                CommandFault::Refused => &drops.refused,
            };
            counter.fetch_add(1, Relaxed);
            VIRTIO_NET_ERR
        }
    };
    let status = u8::try_from(status).unwrap_or(1);
    let place = chain.writable.first().map(|buffer| buffer.address);
    let wrote = place.map(|place| serving.memory.write_obj(status, place));
    u32::from(matches!(wrote, Some(Ok(()))))
}

/// Copies a command up to the limit; returns whether that is all of it.
fn copy(serving: &Serving, buffers: &[Buffer]) -> Option<(Vec<u8>, bool)> {
    let total: usize = buffers.iter().map(|buffer| buffer.len_bytes as usize).sum();
    let mut bytes = vec![0; total.min(COMMAND_MAX_BYTES)];
    let mut rest = bytes.as_mut_slice();
    for buffer in buffers {
        if rest.is_empty() {
            break;
        }
        let (part, behind) = rest.split_at_mut(rest.len().min(buffer.len_bytes as usize));
        serving.memory.read_slice(part, buffer.address).ok()?;
        rest = behind;
    }
    Some((bytes, total <= COMMAND_MAX_BYTES))
}

#[cfg(test)]
mod tests;
