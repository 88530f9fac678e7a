// SPDX-License-Identifier: Apache-2.0
//! The driver of one disk: all its queues at once, and resets of the device in between.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use devices::virtio::device::VirtioDevice as _;
use loadgen::disk::{Queue, QueueOptions};
use loadgen::memory::Memory;
use loadgen::ring::RingOptions;
use vmm::virtio::Device;

use super::Shared;
use super::lane::{DEPTH, Lane};
use super::orders::{Order, Orders};
use crate::BLOCK_BYTES;
use crate::driver::{DRIVER_FEATURES, Notify, activate};
use crate::vcpu::Vcpu;

/// How often to look whether a reset is over.
const LOOK: Duration = Duration::from_millis(1);
/// How long a reset may take: longer than anything that a storm does to the device.
const PATIENCE: Duration = Duration::from_secs(150);

/// The disk as a driver has it, across resets.
struct Disk<'a> {
    device: &'a Device,
    notify: Vec<Notify>,
    vcpu: Vcpu,
}

/// Drives the disk, the device `index`, until the guest ends.
pub(super) fn drive(
    index: usize,
    device: &Device,
    queues: u16,
    mut memory: Memory,
    shared: &Shared,
) -> Result<()> {
    let orders = &shared.orders[index];
    let count = u64::from(queues);
    let seed = shared.seed ^ shared.first_write.rotate_left(20) ^ (index as u64) << 8;
    let mut lanes: Vec<_> = (0..count)
        .map(|lane| Lane::new(lane, count, seed ^ lane, shared))
        .collect();
    let notify = (0..queues).map(|_| Notify::new());
    let disk = Disk {
        device,
        notify: notify.collect::<Result<_>>()?,
        vcpu: Vcpu::start(shared.seccomp)?,
    };
    let mut resets = 0;
    loop {
        let outcome = load(&disk, &mut memory, &mut lanes, orders, shared);
        if let Err(error) = outcome {
            // The storm has failed; the other drivers end, too.
            shared.say(&format!("FAULT disk{index}: {error:#}"));
            shared.tell_all(Order::Halt);
        }
        if orders.get() != Order::Reset {
            break;
        }
        // If the guest ends first, the device still uses the memory that a new queue would clear.
        if !reset(device, orders, &disk.vcpu)? {
            break;
        }
        resets += 1;
    }
    tell(index, &lanes, resets, shared);
    Ok(())
}

/// Makes the queues anew, and drives them until there is another order.
fn load(
    disk: &Disk<'_>,
    memory: &mut Memory,
    lanes: &mut [Lane],
    orders: &Orders,
    shared: &Shared,
) -> Result<()> {
    memory.rewind();
    let mut queues = Vec::new();
    for (lane, notify) in disk.notify.iter().enumerate() {
        let mut queue = Queue::new(memory, options(lane, shared.queue_size))?;
        queue.fds = Arc::clone(&notify.fds);
        queues.push(queue);
    }
    let rings: Vec<_> = queues.iter().map(|q| &q.ring).zip(&disk.notify).collect();
    activate(disk.device, DRIVER_FEATURES, &rings, &disk.vcpu)?;
    let memory = &*memory;
    thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .iter_mut()
            .zip(queues)
            .map(|(lane, queue)| {
                scope.spawn(move || {
                    let outcome = lane.run(memory, queue, orders, shared);
                    if outcome.is_err() {
                        orders.give(Order::Halt);
                    }
                    outcome
                })
            })
            .collect();
        let mut joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.try_for_each(|joined| joined.map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Every other queue has its requests in the ring itself.
fn options(lane: usize, size: u16) -> QueueOptions {
    QueueOptions {
        ring: RingOptions {
            size,
            event_idx: true,
            start: 0,
        },
        depth: DEPTH,
        buffer_bytes: BLOCK_BYTES,
        segments: 1,
        indirect: lane.is_multiple_of(2),
    }
}

/// Resets the device. False if the guest ends before the reset does.
pub(super) fn reset(device: &Device, orders: &Orders, vcpu: &Vcpu) -> Result<bool> {
    let device = device.device();
    let begun = Instant::now();
    let resets = device.clone();
    vcpu.run(move || resets.begin_reset());
    while !device.reset_done() {
        if orders.get() == Order::Halt {
            return Ok(false);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "a reset of the device does not end"
        );
        thread::sleep(LOOK);
    }
    orders.reset_done();
    Ok(true)
}

/// Says what the disk may hold, and what was done.
fn tell(index: usize, lanes: &[Lane], resets: u32, shared: &Shared) {
    let mut text = String::new();
    for lane in lanes {
        for (at, block) in lane.blocks.blocks.iter().enumerate() {
            if let Some(first) = block.first {
                let number = lane.blocks.number(at);
                let (least, most) = (block.least, block.most);
                text.push_str(&format!("BLOCK {index} {number} {first} {least} {most}\n"));
            }
        }
    }
    let sums = || lanes.iter().map(|lane| lane.sum);
    let writes: u64 = sums().map(|sum| sum.writes).sum();
    let reads: u64 = sums().map(|sum| sum.reads).sum();
    let flushes: u64 = sums().map(|sum| sum.flushes).sum();
    let forgotten: u64 = sums().map(|sum| sum.forgotten).sum();
    let longest = sums().map(|sum| sum.longest).max().unwrap_or_default();
    text.push_str(&format!(
        "SUM writes={writes} reads={reads} flushes={flushes} forgotten={forgotten} \
         resets={resets} longest_ms={}",
        longest.as_millis()
    ));
    shared.say(&text);
}
