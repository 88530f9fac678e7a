// SPDX-License-Identifier: Apache-2.0
//! The driver for a storm: it loads and checks every device at once, resets a device or reboots when it
//! is told to, stands still while the VM is paused, and knows no more after a reboot than any guest.
//!
//! The host appends orders to the file that it named as the guest's kernel, which is the one file that a
//! vmm can read: a line `reset N` or `reboot`. The power button completes what is outstanding and ends
//! the driver. On the console a line `FAULT …` tells of a fault of a device at once; when a run of the
//! guest ends, a line `BLOCK disk block first least most` says of each block which write the first read
//! found, and which writes it may hold now. Numbers of writes grow across reboots: no two writes of a
//! block are the same.

mod block;
mod disk;
mod lane;
mod mirror;
mod orders;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use host::clock::monotonic_ns;
use ipc::control::{Channel, Ending, FromVmm, ToVmm};
use ipc::record::{DeviceKind, VmmRecord};
use ipc::seccomp::Mode;
use loadgen::memory::Memory;
use nix::poll::{PollFd, PollFlags, poll};
use vmm::virtio::Device;

use orders::{Order, Orders};

/// Guest memory of one disk, and of one NIC.
const DISK_BYTES: u64 = 6 << 20;
const CARD_BYTES: u64 = 12 << 20;

/// What all threads of the driver share.
pub(crate) struct Shared {
    /// One for each device.
    orders: Vec<Orders>,
    /// Held for writing while the VM is paused.
    gate: RwLock<()>,
    console: Mutex<File>,
    /// Blocks of each disk.
    blocks: u64,
    seed: u64,
    queue_size: u16,
    /// The number of the first write: higher than any of the guest before.
    first_write: u64,
    seccomp: Mode,
}

impl Shared {
    /// Says a line on the console.
    fn say(&self, line: &str) {
        use std::io::Write as _;
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        // The host misses the line, and fails the storm.
        let _ = console.write_all(format!("{line}\n").as_bytes());
    }

    /// Keeps the VM from being paused for as long as the result lives.
    fn running(&self) -> std::sync::RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self, order: Order) {
        for orders in &self.orders {
            orders.give(order);
        }
    }
}

/// Drives all devices until the guest reboots or powers off, and tells the supervisor so.
pub(crate) fn run(
    record: &VmmRecord,
    devices: Vec<Device>,
    mut memory: Memory,
    console: File,
    channel: &Channel,
    script: &crate::Script,
    kernel: File,
) -> Result<()> {
    let shared = Arc::new(Shared {
        orders: devices.iter().map(|_| Orders::default()).collect(),
        gate: RwLock::new(()),
        console: Mutex::new(console),
        blocks: script.blocks,
        seed: script.seed,
        queue_size: script.queue_size,
        first_write: monotonic_ns(),
        seccomp: record.seccomp,
    });
    let devices = Arc::new(devices);
    let mut workers = Vec::new();
    for (index, device) in record.devices.iter().enumerate() {
        let (shared, devices) = (Arc::clone(&shared), Arc::clone(&devices));
        let worker = match device.kind {
            DeviceKind::Block => {
                let (part, queues) = (memory.part(DISK_BYTES)?, device.queues);
                std::thread::spawn(move || {
                    disk::drive(index, &devices[index], queues, part, &shared)
                })
            }
            DeviceKind::Net(nic) => {
                let part = memory.part(CARD_BYTES)?;
                std::thread::spawn(move || {
                    mirror::drive(index, &devices[index], part, nic.mac, &shared)
                })
            }
            _ => continue,
        };
        workers.push(worker);
    }
    shared.say(&format!("STORM begins writes={}", shared.first_write));
    shared.say("DRIVER ready");
    let told = orders::hear(kernel, &shared)?;
    vmm::seccomp::confine_main(record.seccomp)?;
    serve(channel, &devices, &shared, &workers)?;
    for worker in workers {
        let outcome = worker.join().map_err(|_| anyhow!("a driver panicked"));
        if let Err(error) = outcome.and_then(|outcome| outcome) {
            shared.say(&format!("FAULT {error:#}"));
        }
    }
    let ending = match told.reboot() {
        true => Ending::Reboot,
        false => Ending::PowerOff,
    };
    shared.say(&format!("STORM ends {ending:?}"));
    channel.send(&FromVmm::Ended(ending))?;
    std::process::exit(0)
}

/// Does what the supervisor asks until all drivers are done.
fn serve(
    channel: &Channel,
    devices: &[Device],
    shared: &Shared,
    workers: &[JoinHandle<Result<()>>],
) -> Result<()> {
    let mut paused: Option<RwLockWriteGuard<'_, ()>> = None;
    while !workers.iter().all(JoinHandle::is_finished) {
        let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 20_u16)? == 0 {
            continue;
        }
        let (message, stream) = channel.receive_with()?.context("the supervisor has gone")?;
        match message {
            ToVmm::PowerButton => shared.tell_all(Order::Finish),
            ToVmm::Pause => {
                if paused.is_none() {
                    paused = Some(shared.gate.write().unwrap_or_else(PoisonError::into_inner));
                }
                channel.send(&FromVmm::Paused)?;
            }
            ToVmm::Resume => {
                paused = None;
                channel.send(&FromVmm::Resumed)?;
            }
            ToVmm::Save => channel.send(&FromVmm::NotSaved("there is no guest".into()))?,
            ToVmm::Device(slot, message) => Device::dispatch(devices, slot, message, stream),
        }
    }
    drop(paused);
    Ok(())
}
