// SPDX-License-Identifier: Apache-2.0
//! Backends that come and go, with every filter of the vmm installed on the thread that it is for: a
//! forbidden system call kills the test.

#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use devices::virtio::device::{Activation, ActiveQueue, DriverSignals, QueueIndex, VirtioDevice};
use devices::virtio::eventfd::QueueEvents;
use devices::virtio::features::VERSION_1;
use devices::virtio::queue::QueueLayout;
use host::seccomp::SeccompError;
use ipc::control::{DeviceNews, FromVmm, ToVmm};
use ipc::memfd::{self, Backing};
use vm_memory::{FileOffset, GuestAddress};

use super::*;

const RAM_BYTES: usize = 1 << 20;

/// A thread under a filter, which does what it is told and never ends.
struct Confined(Sender<Box<dyn FnOnce() + Send>>);

impl Confined {
    fn new(install: fn(Mode) -> Result<(), SeccompError>) -> Self {
        let (jobs, todo) = channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || {
            install(Mode::Kill).unwrap();
            loop {
                match todo.recv() {
                    Ok(job) => job(),
                    Err(_) => std::thread::park(),
                }
            }
        });
        Self(jobs)
    }

    /// Has it do something, and waits.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let job = move || drop(answer.send(job()));
        self.0.send(Box::new(job)).unwrap();
        answered.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

/// Answers every request, but does not stop a queue while the storage hangs.
fn back(mut stream: UnixStream, storage_hangs: &AtomicBool) {
    loop {
        let mut header = [0; 12];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let word = |i: usize| u32::from_ne_bytes(header[4 * i..4 * i + 4].try_into().unwrap());
        let mut body = vec![0; word(2) as usize];
        stream.read_exact(&mut body).unwrap();
        let value = |value: u64| value.to_ne_bytes().to_vec();
        let answer = match (word(0), word(1) & 8) {
            // GET_FEATURES: with VHOST_USER_F_PROTOCOL_FEATURES; GET_PROTOCOL_FEATURES: REPLY_ACK
            (1, _) => value(VERSION_1 | 1 << 30),
            (15, _) => value(1 << 3),
            (11, _) if storage_hangs.load(Ordering::SeqCst) => continue,
            (11, _) => body,
            (_, 8) => value(0),
            _ => continue,
        };
        let head = [word(0), 1 | 4, answer.len() as u32].map(u32::to_ne_bytes);
        stream
            .write_all(&[&head.concat(), &answer[..]].concat())
            .unwrap();
    }
}

struct Deaf;
impl DriverSignals for Deaf {
    fn used_buffers(&self, _: QueueIndex) {}
    fn config_changed(&self) {}
    fn needs_reset(&self) {}
}

/// A device on its thread, the two threads beside it, and the supervisor.
struct Stand {
    main: Confined,
    vcpu: Confined,
    devices: &'static [Device],
    ours: &'static Channel,
    supervisor: Channel,
    storage_hangs: &'static AtomicBool,
    /// A driver's queue has these for as long as its function exists.
    events: Arc<QueueEvents>,
}

impl Stand {
    fn new() -> Self {
        let (ours, supervisor) = Channel::pair().unwrap();
        let ours: &'static Arc<Channel> = Box::leak(Box::new(Arc::new(ours)));
        let storage_hangs: &'static AtomicBool = Box::leak(Box::default());
        let (stream, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(|| back(theirs, storage_hangs));
        let device = make(stream, ours);
        let devices: &'static [Device] = Box::leak(Box::new([device]));
        let connected = |device: &Device| device.wait_until_connected(Duration::from_secs(5));
        assert!(devices.iter().all(connected));
        Self {
            main: Confined::new(seccomp::confine_main),
            vcpu: Confined::new(seccomp::confine_vcpu),
            devices,
            ours,
            supervisor,
            storage_hangs,
            events: Arc::new(QueueEvents::new().unwrap()),
        }
    }

    /// The supervisor sends a message with a descriptor; the main thread does what it says.
    fn tell(&self, message: &ToVmm, fd: impl AsFd) {
        self.supervisor.send_with(message, fd.as_fd()).unwrap();
        let (devices, ours) = (self.devices, self.ours);
        self.main.run(move || {
            let (message, fd) = ours.receive_with().unwrap().unwrap();
            match message {
                ToVmm::Device(slot, message) => Device::dispatch(devices, slot, message, fd),
                _ => drop(fd),
            }
        });
    }

    /// Waits for news of the device.
    fn hear(&self, expected: &DeviceNews) {
        loop {
            match self.supervisor.receive().unwrap() {
                Some(FromVmm::Device(_, news)) if news == *expected => return,
                Some(_) => {}
                None => panic!("the vmm has gone"),
            }
        }
    }

    /// A driver begins; its device runs.
    fn activate(&self) {
        let (device, events) = (self.devices[0].device(), Arc::clone(&self.events));
        self.vcpu.run(move || {
            let at = |part: u64| GuestAddress(0x1000 * part);
            device.activate(Activation {
                features: VERSION_1,
                queues: vec![ActiveQueue {
                    index: QueueIndex(0),
                    layout: QueueLayout::new(64, at(0), at(1), at(2)).unwrap(),
                    events,
                }],
                signals: Arc::new(Deaf),
            });
        });
        self.hear(&DeviceNews::Running);
    }

    /// The driver resets its device while the storage hangs: the device's thread waits for that.
    fn begin_reset(&self) {
        self.storage_hangs.store(true, Ordering::SeqCst);
        let device = self.devices[0].device();
        self.vcpu.run(move || device.begin_reset());
    }

    fn reset_ends(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let device = self.devices[0].device();
            if self.vcpu.run(move || device.reset_done()) {
                return;
            }
            assert!(Instant::now() < deadline, "the reset does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn make(stream: UnixStream, supervisor: &Arc<Channel>) -> Device {
    let ram = memfd::shared("ram", RAM_BYTES as u64, Backing::Shmem).unwrap();
    let range = (
        GuestAddress(0),
        RAM_BYTES,
        Some(FileOffset::new(ram.into(), 0)),
    );
    let memory = GuestMemory::from_ranges_with_files([range]).unwrap();
    let record = DeviceRecord {
        slot: slot(1),
        id: "dev0".into(),
        kind: DeviceKind::Other(42),
        queues: 1,
        queue_size: 64,
        foreign: false,
        inflight: false,
    };
    let reporter = Reporter::new(slot(1), "dev0", supervisor);
    let made = Device::new(
        &record,
        &memory,
        (stream.into(), None),
        reporter,
        Mode::Kill,
    );
    let mut device = made.unwrap();
    device.connect();
    device
}

/// Reads until the other end is closed.
fn expect_closed(mut stream: UnixStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
}

#[test]
fn backend_replaced_before_its_device_took_it_is_hung_up_on_and_nothing_else_happens() {
    let stand = Stand::new();
    stand.activate();
    stand.begin_reset();

    // The device's thread takes none of them: it waits for the storage.
    let probed: Vec<UnixStream> = (0..3)
        .map(|_| {
            let (stream, theirs) = UnixStream::pair().unwrap();
            stand.tell(&ToVmm::Device(slot(1), ToDevice::Probe), stream);
            theirs
        })
        .collect();

    let mut probed = probed.into_iter();
    probed.by_ref().take(2).for_each(expect_closed);
    drop(probed);
    stand.tell(&ToVmm::Device(slot(1), ToDevice::Fenced), std::io::stdin());
    stand.reset_ends();
}

#[test]
fn backends_attached_one_after_the_other_are_hung_up_on_but_for_the_last() {
    let stand = Stand::new();
    stand.activate();
    stand.begin_reset();

    let attached: Vec<UnixStream> = (0..100)
        .map(|_| {
            let (stream, theirs) = UnixStream::pair().unwrap();
            stand.tell(&ToVmm::Device(slot(1), ToDevice::Attach), stream);
            theirs
        })
        .collect();

    attached.into_iter().take(99).for_each(expect_closed);
    stand.reset_ends();
}

#[test]
fn descriptor_that_comes_unasked_is_closed() {
    let stand = Stand::new();
    for message in [
        ToVmm::Resume,
        ToVmm::Device(slot(1), ToDevice::Switch),
        ToVmm::Device(slot(7), ToDevice::Attach),
    ] {
        let (sent, theirs) = UnixStream::pair().unwrap();
        stand.tell(&message, sent);
        expect_closed(theirs);
    }
}

#[test]
fn descriptors_of_a_message_that_is_none_are_closed() {
    use std::os::fd::AsRawFd;
    let stand = Stand::new();
    let (sent, theirs) = UnixStream::pair().unwrap();
    let fds = [sent.as_raw_fd(); 2];
    vmm_sys_util::sock_ctrl_msg::ScmSocket::send_with_fds(
        &UnixStream::from(stand.supervisor.as_fd().try_clone_to_owned().unwrap()),
        &[&b"\"Dance\""[..]],
        &fds,
    )
    .unwrap();
    drop(sent);
    let ours = stand.ours;
    let is_refused = stand.main.run(|| ours.receive_with::<ToVmm>().is_err());
    assert!(is_refused);
    expect_closed(theirs);
}

#[test]
fn device_dropped_by_a_start_that_fails_does_not_kill_the_process() {
    let (ours, _supervisor) = Channel::pair().unwrap();
    let (stream, theirs) = UnixStream::pair().unwrap();
    let device = make(stream, &Arc::new(ours));
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_device = || {
        threads().find(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name == "dev0\n"
        })
    };
    // It names itself, a moment after it was made.
    let of_device = std::iter::repeat_with(of_device).flatten().next();
    let of_device = of_device.unwrap().path();

    drop(device);

    expect_closed(theirs);
    // futex(2), in which it waits for ever
    let waits = || std::fs::read_to_string(of_device.join("syscall")).unwrap();
    while !waits().starts_with("202 ") {
        std::thread::yield_now();
    }
}

fn slot(number: u8) -> DeviceSlot {
    DeviceSlot::new(number).unwrap()
}
