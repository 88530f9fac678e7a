// SPDX-License-Identifier: Apache-2.0
//! The vmm's half without KVM: memory, a PCI function over a vhost-user device, the device's thread,
//! and a vCPU that notices when a register access takes long.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use devices::bus::Bus;
use devices::pci::root::PciFunction;
use devices::testing::{BASE, Guest};
use devices::virtio::device::DeviceType;
use devices::virtio::features::VERSION_1;
use devices::virtio::transport::pci::function::VirtioPci;
use devices::virtio::vhost_user::device::VhostUserDevice;
use devices::virtio::vhost_user::events::{DeviceEvent, DeviceEvents};
use devices::virtio::vhost_user::inflight::InflightRegion;
use devices::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin, Timeouts};
use ipc::memfd::{Backing, shared};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::message::QUEUES;

const RAM_LEN: u64 = 4 << 20;
pub(crate) const QUEUE_SIZE: u16 = 8;
const STATUS: u64 = 20;
/// Longer than this is a stall, as a guest sees it.
const STALL: Duration = Duration::from_millis(10);

struct Reporter(Mutex<Sender<DeviceEvent>>);

impl DeviceEvents for Reporter {
    fn report(&self, event: DeviceEvent) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sender.send(event);
    }
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) memory: GuestMemoryMmap<()>,
    guest: Guest<VhostUserDevice>,
    reports: Receiver<DeviceEvent>,
}

/// A disk with two queues. `inflight` is the region that its backends would inherit.
pub(crate) fn machine(
    origin: Origin,
    timeouts: Timeouts,
    inflight: Option<InflightRegion>,
) -> Result<Machine> {
    let spec = DeviceSpec {
        device_type: DeviceType::BLOCK,
        queue_max_sizes: vec![QUEUE_SIZE; usize::from(QUEUES)],
        config: ConfigSource::Backend { len_bytes: 60 },
        origin,
        timeouts,
    };
    let ram = shared("guest", RAM_LEN, Backing::Shmem)?;
    let range = (
        GuestAddress(0),
        usize::try_from(RAM_LEN)?,
        Some(FileOffset::new(ram.into(), 0)),
    );
    let memory = GuestMemoryMmap::from_ranges_with_files([range])?;
    let (sender, reports) = channel();
    let reporter = Arc::new(Reporter(Mutex::new(sender)));
    let (device, worker) = VhostUserDevice::new(spec, memory.clone(), inflight, reporter)?;
    std::thread::Builder::new()
        .name("device".into())
        .spawn(move || worker.run())?;
    Ok(Machine {
        memory,
        guest: Guest::new(Arc::new(device)),
        reports,
    })
}

impl Machine {
    /// The device.
    pub(crate) fn device(&self) -> &VhostUserDevice {
        &self.guest.device
    }

    /// Connects the device to a backend that is honest so far, and lets a driver start on it.
    pub(crate) fn start_on(&self, backend: OwnedFd, limit: Duration) -> Result<()> {
        self.device().attach(backend);
        ensure!(matches!(self.report(limit)?, DeviceEvent::Connected));
        self.start_driver()?;
        ensure!(matches!(self.settled(limit)?, DeviceEvent::Running));
        Ok(())
    }

    /// The next thing that befell the device.
    pub(crate) fn report(&self, limit: Duration) -> Result<DeviceEvent> {
        let report = self.reports.recv_timeout(limit);
        report.map_err(|_| anyhow!("nothing was reported of the device for {limit:?}"))
    }

    /// Waits until the device is connected no more, or runs.
    pub(crate) fn settled(&self, limit: Duration) -> Result<DeviceEvent> {
        loop {
            match self.report(limit)? {
                DeviceEvent::Connected | DeviceEvent::Drained => {}
                other => return Ok(other),
            }
        }
    }

    /// As a driver does: features, vectors, queues, go.
    pub(crate) fn start_driver(&self) -> Result<()> {
        self.guest.enable();
        for queue in 0..QUEUES {
            let base = GuestAddress(ring_base(queue));
            self.memory.write_slice(&[0; 0x3000], base)?;
        }
        self.guest.start(VERSION_1, QUEUE_SIZE);
        ensure!(self.guest.status() == 0xf, "the driver could not start");
        Ok(())
    }

    /// Resets the device; how long it took until the driver saw the end of it.
    pub(crate) fn reset_driver(&self, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        self.guest.write8(STATUS, 0);
        while self.guest.status() != 0 {
            ensure!(begun.elapsed() < limit, "the reset does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begun.elapsed())
    }

    /// A vCPU that goes on touching registers.
    pub(crate) fn vcpu(&self) -> Result<Vcpu> {
        let guest = &self.guest;
        let (bus, function) = (Arc::clone(&guest.memory), Arc::clone(&guest.function));
        let wires = Arc::clone(&guest.wires);
        let shared = Arc::<Seen>::default();
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vcpu".into())
            .spawn(move || {
                for turn in 0_u32.. {
                    if seen.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (begun, before) = (Instant::now(), Spent::now());
                    access(&bus, &function, turn);
                    seen.note(begun.elapsed(), before);
                    if turn % 64 == 0 {
                        // What interrupts it is nothing to it, but would add up.
                        wires.take_sent();
                        // Two processors have to do for everyone here.
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            });
        Ok(Vcpu {
            shared,
            thread: Some(thread.context("a vCPU's thread")?),
        })
    }
}

/// Where a queue is in memory.
pub(crate) fn ring_base(queue: u16) -> u64 {
    Guest::<VhostUserDevice>::ring(queue)
}

/// One access to a register that a driver touches while a device runs; those that settle interrupts
/// read and drain eventfds that the backend has, too.
fn access(bus: &Bus, function: &VirtioPci, turn: u32) {
    let mut data = [0; 4];
    match turn % 8 {
        0 => bus.read(BASE + STATUS, &mut data[..1]),
        1 => bus.read(BASE + 0x2000, &mut data),
        2 => bus.read(BASE + 0xc000, &mut data),
        3 => bus.write(BASE + 0x3000 + 4 * u64::from(turn / 8 % 2), &[0, 0]),
        4 => bus.write(BASE + 0x801c, &[1, 0, 0, 0]),
        5 => bus.write(BASE + 0x801c, &[0, 0, 0, 0]),
        6 => bus.read(BASE + 21, &mut data[..1]),
        _ => function.config_read(4, &mut data),
    }
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    accesses: AtomicU64,
    stalls: AtomicU64,
    longest_us: AtomicU64,
}

/// What this thread has spent its life with, but for waiting for its turn on a processor.
#[derive(Clone, Copy)]
struct Spent {
    waits: i64,
    running_us: i64,
}

impl Spent {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_THREAD);
        usage.map_or(
            Self {
                waits: 0,
                running_us: 0,
            },
            |usage| Self {
                waits: usage.voluntary_context_switches(),
                running_us: (usage.user_time() + usage.system_time()).num_microseconds(),
            },
        )
    }
}

impl Seen {
    /// An access took so long, and began when its thread had spent so much.
    fn note(&self, time: Duration, before: Spent) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        // Who neither waited nor ran was in the way of nobody: others had the processor.
        if time > STALL {
            let now = Spent::now();
            let ran_us = u128::try_from(now.running_us - before.running_us).unwrap_or(0);
            if now.waits == before.waits && ran_us < STALL.as_micros() {
                return;
            }
        }
        self.stalls
            .fetch_add(u64::from(time > STALL), Ordering::Relaxed);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(us, Ordering::Relaxed);
    }
}

/// A vCPU at work.
pub(crate) struct Vcpu {
    shared: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Vcpu {
    /// How long its longest access took and how many took longer than a guest should notice; an
    /// error when that is more than the machine can be blamed for. Time in which others had its
    /// processor does not count.
    pub(crate) fn finish(mut self) -> Result<String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        ensure!(matches!(joined, Some(Ok(()))), "the vCPU ended early");
        let [accesses, stalls, longest_us] = [
            &self.shared.accesses,
            &self.shared.stalls,
            &self.shared.longest_us,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        ensure!(accesses > 0, "the vCPU did nothing");
        let rare = stalls <= 2 + accesses / 1000;
        ensure!(
            rare && longest_us < 1_000_000,
            "{stalls} of {accesses} accesses stalled, the longest for {longest_us} us"
        );
        Ok(format!(
            "accesses={accesses} stalls_10ms={stalls} longest_us={longest_us}"
        ))
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
