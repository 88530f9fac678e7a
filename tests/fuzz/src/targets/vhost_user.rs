// SPDX-License-Identifier: Apache-2.0
//! A backend whose answers are anything: everything it will ever say lies in the socket before the
//! device's thread asks. It connects, or is given up for a reason; in either case the device goes on
//! with the next, a sane one.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::virtio::device::{
    Activation, ActiveQueue, DeviceType, DriverSignals, QueueIndex, VirtioDevice,
};
use devices::virtio::eventfd::QueueEvents;
use devices::virtio::queue::QueueLayout;
use devices::virtio::vhost_user::device::VhostUserDevice;
use devices::virtio::vhost_user::events::{DeviceEvent, DeviceEvents};
use devices::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin, Timeouts};
use ipc::memfd::{Backing, shared};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::script::Script;

const RAM_LEN: usize = 1 << 16;
/// Version 1 and protocol features, as every backend has them.
const FEATURES: u64 = 1 << 32 | 1 << 30;
/// MQ, REPLY_ACK, CONFIG.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 9;
const CODES: [u32; 14] = [1, 15, 17, 24, 2, 5, 8, 9, 10, 13, 12, 18, 11, 16];

struct Reporter(Mutex<Sender<DeviceEvent>>);

impl DeviceEvents for Reporter {
    fn report(&self, event: DeviceEvent) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

struct Silent;

impl DriverSignals for Silent {
    fn used_buffers(&self, _: QueueIndex) {}
    fn config_changed(&self) {}
    fn needs_reset(&self) {}
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let origin = match script.u8() & 1 {
        0 => Origin::Own,
        _ => Origin::Foreign,
    };
    let (device, worker, reports) = device(origin);
    let answers = answers(&mut script, origin);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let _ = theirs.write_all(&answers);
    theirs.shutdown(Shutdown::Write).unwrap();
    device.activate(activation());
    device.attach(ours.into());
    // The stream has an end, so the connection has.
    loop {
        match reports.recv_timeout(Duration::from_secs(20)).unwrap() {
            DeviceEvent::Lost(_) => break,
            DeviceEvent::Connected | DeviceEvent::Running => {}
            other => unreachable!("{other:?}"),
        }
    }
    device.fenced();
    device.begin_reset();
    // Dropping it ends its thread, which is what a test can see of its health from here.
    drop(device);
    assert!(reports.recv_timeout(Duration::from_secs(20)).is_err());
    worker.join().unwrap();
}

fn device(origin: Origin) -> (VhostUserDevice, JoinHandle<()>, Receiver<DeviceEvent>) {
    let spec = DeviceSpec {
        device_type: DeviceType::BLOCK,
        queue_max_sizes: vec![16, 16],
        config: ConfigSource::Backend { len_bytes: 8 },
        origin,
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            drain: Duration::from_millis(1),
        },
    };
    let ram = shared("ram", RAM_LEN as u64, Backing::Shmem).unwrap();
    let file = FileOffset::new(ram.into(), 0);
    let range = (GuestAddress(0), RAM_LEN, Some(file));
    let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    let (sender, reports) = channel();
    let reporter = Arc::new(Reporter(Mutex::new(sender)));
    let (device, worker) = VhostUserDevice::new(spec, memory, None, reporter).unwrap();
    let worker = std::thread::spawn(move || worker.run());
    (device, worker, reports)
}

fn activation() -> Activation {
    let queue = |index: u16| {
        let base = 0x4000 * u64::from(index);
        let at = |part: u64| GuestAddress(base + 0x1000 * part);
        ActiveQueue {
            index: QueueIndex(index),
            layout: QueueLayout::new(16, at(0), at(1), at(2)).unwrap(),
            events: Arc::new(QueueEvents::new().unwrap()),
        }
    };
    Activation {
        features: 1 << 32,
        queues: vec![queue(0), queue(1)],
        signals: Arc::new(Silent),
    }
}

/// What the backend says: a good conversation, of which the script replaces, cuts, repeats and alters
/// parts; or bytes of the script alone.
fn answers(script: &mut Script<'_>, origin: Origin) -> Vec<u8> {
    let mut messages = conversation(origin);
    let mut stray = Vec::new();
    while let Some(step) = script.next() {
        let place = usize::from(script.u8()) % messages.len();
        let message = &mut messages[place];
        match step % 6 {
            0 => {
                let at = usize::from(script.u8());
                let len = message.len();
                if let Some(byte) = message.get_mut(at % len.max(1)) {
                    *byte = script.u8();
                }
            }
            1 => message.truncate(usize::from(script.u8())),
            2 => message.extend(script.bytes()),
            3 => {
                let code = CODES[usize::from(script.u8()) % CODES.len()];
                *message = reply(code, script.bytes());
            }
            4 => {
                let twice = message.clone();
                message.extend(twice);
            }
            _ => stray.extend(script.bytes()),
        }
        if stray.len() + messages.iter().map(Vec::len).sum::<usize>() > 0x1_0000 {
            break;
        }
    }
    messages.push(stray);
    messages.concat()
}

fn reply(code: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let mut message: Vec<u8> = [code, 1 | 4, len]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    message.extend(body);
    message
}

/// The answers of a sane backend, in the order in which they are asked for.
fn conversation(origin: Origin) -> Vec<Vec<u8>> {
    let number = |code, value: u64| reply(code, &value.to_ne_bytes());
    let mut config: Vec<u8> = [0_u32, 8, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
    config.extend([0x55; 8]);
    let protocol = match origin {
        Origin::Own => PROTOCOL,
        // It does not acknowledge, so that it is asked for its features instead.
        Origin::Foreign => PROTOCOL & !(1 << 3),
    };
    let mut all = vec![
        number(1, FEATURES),
        number(15, protocol),
        number(17, 2),
        reply(24, &config),
    ];
    // SET_FEATURES, SET_MEM_TABLE; NUM, ADDR, BASE, CALL, KICK of each queue; ENABLE of each.
    let queue = [8, 9, 10, 13, 12];
    let set = [2, 5].into_iter().chain(queue).chain(queue).chain([18, 18]);
    for code in set {
        all.push(match origin {
            Origin::Own => number(code, 0),
            Origin::Foreign => number(1, FEATURES),
        });
    }
    all
}
