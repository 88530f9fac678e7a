// SPDX-License-Identifier: Apache-2.0
//! A device with a driver's signals and the vmm's events recorded, and backends for it.

#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

pub(super) mod backend;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::virtio::device::{
    Activation, ActiveQueue, DeviceType, DriverSignals, QueueIndex, VirtioDevice,
};
use crate::virtio::eventfd::QueueEvents;
use crate::virtio::queue::QueueLayout;
use crate::virtio::vhost_user::device::VhostUserDevice;
use crate::virtio::vhost_user::events::{DeviceEvent, DeviceEvents, PeerFault};
use crate::virtio::vhost_user::inflight::InflightRegion;
use crate::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin, Timeouts};
use crate::virtio::vhost_user::testing::backend::{AtWork, Backend, FEATURES};

/// The vmm's and the driver's ear.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub(super) interrupted: Mutex<Vec<QueueIndex>>,
    pub(super) needs_reset: Mutex<usize>,
    pub(super) config_changes: Mutex<usize>,
    pub(super) retries: Mutex<usize>,
}

impl DriverSignals for Signals {
    fn used_buffers(&self, queue: QueueIndex) {
        self.interrupted.lock().unwrap().push(queue);
    }
    fn config_changed(&self) {
        *self.config_changes.lock().unwrap() += 1;
    }
    fn needs_reset(&self) {
        *self.needs_reset.lock().unwrap() += 1;
    }
    fn retry(&self) {
        *self.retries.lock().unwrap() += 1;
    }
}

struct Reporter(Mutex<Sender<DeviceEvent>>);

impl DeviceEvents for Reporter {
    fn report(&self, event: DeviceEvent) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

pub(super) struct Bench {
    pub(super) device: VhostUserDevice,
    pub(super) memory: GuestMemoryMmap<()>,
    pub(super) inflight: File,
    pub(super) signals: Arc<Signals>,
    pub(super) events: Vec<Arc<QueueEvents>>,
    reports: Receiver<DeviceEvent>,
}

pub(super) const MEMORY_BASE: u64 = 0x4000_0000;

fn memfd(len: u64) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"test", flags).unwrap());
    file.set_len(len).unwrap();
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

pub(super) fn spec(origin: Origin) -> DeviceSpec {
    DeviceSpec {
        device_type: DeviceType::BLOCK,
        queue_max_sizes: vec![64, 64],
        config: ConfigSource::Backend { len_bytes: 8 },
        origin,
        timeouts: Timeouts {
            connect: Duration::from_millis(400),
            drain: Duration::from_millis(400),
        },
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(spec(Origin::Own))
    }

    pub(super) fn with(spec: DeviceSpec) -> Self {
        let ram = FileOffset::new(memfd(1 << 20), 0);
        let ranges = [(GuestAddress(MEMORY_BASE), 1 << 20, Some(ram))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let inflight = memfd(8192);
        let region = InflightRegion::map(inflight.try_clone().unwrap().into()).unwrap();
        let (sender, reports) = channel();
        let reporter = Arc::new(Reporter(Mutex::new(sender)));
        let (device, worker) =
            VhostUserDevice::new(spec, memory.clone(), Some(region), reporter).unwrap();
        std::thread::spawn(move || worker.run());
        let events = || Arc::new(QueueEvents::new().unwrap());
        Self {
            device,
            memory,
            inflight,
            signals: Arc::default(),
            events: vec![events(), events()],
            reports,
        }
    }

    pub(super) fn attach(&self, backend: Backend) -> (UnixStream, AtWork) {
        let (stream, control, at_work) = backend.start();
        self.device.attach(stream);
        (control, at_work)
    }

    pub(super) fn layout(index: u16) -> QueueLayout {
        let at = |part: u64| GuestAddress(MEMORY_BASE + 0x4000 * u64::from(index) + 0x1000 * part);
        QueueLayout::new(64, at(0), at(1), at(2)).unwrap()
    }

    pub(super) fn activate(&self) {
        self.activate_at([Self::layout(0), Self::layout(1)]);
    }

    pub(super) fn activate_at(&self, layouts: [QueueLayout; 2]) {
        let queue = |(i, layout): (usize, &QueueLayout)| ActiveQueue {
            index: QueueIndex(i as u16),
            layout: *layout,
            events: Arc::clone(&self.events[i]),
        };
        self.device.activate(Activation {
            features: FEATURES,
            queues: layouts.iter().enumerate().map(queue).collect(),
            signals: Arc::clone(&self.signals) as _,
        });
    }

    /// The device publishes that it has used so many buffers.
    pub(super) fn set_used(&self, index: u16, used: u16) {
        let at = Self::layout(index).used_index();
        self.memory.write_obj(used.to_le(), at).unwrap();
    }

    /// The next report, but for what is outstanding, which comes when it is time.
    pub(super) fn report(&self) -> DeviceEvent {
        loop {
            let event = self.any_report();
            if !matches!(event, DeviceEvent::Outstanding(_)) {
                return event;
            }
        }
    }

    pub(super) fn any_report(&self) -> DeviceEvent {
        self.reports.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    /// The driver makes so many buffers available.
    pub(super) fn set_avail(&self, index: u16, avail: u16) {
        let at = Self::layout(index).avail_index();
        self.memory.write_obj(avail.to_le(), at).unwrap();
    }

    /// Has a backend judged.
    pub(super) fn probe(&self, backend: Backend) -> (UnixStream, AtWork) {
        let (stream, control, at_work) = backend.start();
        self.device.probe(stream);
        (control, at_work)
    }

    pub(super) fn expect_connected(&self) {
        let report = self.report();
        assert!(matches!(report, DeviceEvent::Connected), "{report:?}");
    }

    pub(super) fn expect_running(&self) {
        self.expect_connected();
        let report = self.report();
        assert!(matches!(report, DeviceEvent::Running), "{report:?}");
    }

    pub(super) fn reset_ends(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.device.reset_done() {
            assert!(Instant::now() < deadline, "the reset does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a backend was dropped for.
pub(super) fn lost(event: DeviceEvent) -> PeerFault {
    match event {
        DeviceEvent::Lost(fault) => fault,
        other => panic!("{other:?}"),
    }
}
