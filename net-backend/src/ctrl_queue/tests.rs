// SPDX-License-Identifier: Apache-2.0
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use device_backend::vring::Vring;
use device_backend::{GuestMemory, chain::ChainError};
use ipc::health::{self, HealthPage};
use ipc::record::Guard;
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost_user_backend::VringT;
use vm_memory::GuestAddress;

use super::*;
use crate::config::Nic;
use ipc::mac::MacAddress;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const COMMANDS: u64 = 0x4000;
const STATUS: u64 = 0x9000;
const MEMORY_END: u64 = 0x1_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

const NO_BROADCAST: &[u8] = &[0, 5, 1];

/// A control queue of 16 descriptors, and its driver.
struct Stage {
    ctrl_queue: CtrlQueue,
    shared: Arc<Shared>,
    memory: Arc<GuestMemory>,
    call: File,
    available: u16,
}

impl Stage {
    fn new() -> Self {
        let nic = Nic {
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            mtu: None,
            pairs: 1,
            queue_size: 256,
            uso: false,
            guard: Guard {
                mac: true,
                ..Guard::default()
            },
        };
        let page = HealthPage::map(health::create().unwrap()).unwrap();
        let shared = Shared::new(nic, vec![], None, true, Box::leak(Box::new(page)));
        shared.set_features(shared.nic.features());
        let table = [(GuestAddress(0x1000), 0xf000)];
        let table = GuestMemory::from_ranges(&table).unwrap();
        shared.memory.shared().lock().unwrap().replace(table);
        shared.memory.replaced().unwrap();
        let call: OwnedFd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap().into();
        let call = File::from(call);
        let vring = Vring::new(shared.memory.shared(), 16).unwrap();
        vring.set_queue_size(16);
        vring.set_queue_info(DESC, AVAIL, USED).unwrap();
        vring.set_call(Some(call.try_clone().unwrap()));
        vring.set_queue_ready(true);
        vring.set_enabled(true);
        let mut ctrl_queue = CtrlQueue::default();
        ctrl_queue.queue.follow(&vring, &shared.memory, 0).unwrap();
        let memory = shared.memory.now();
        Self {
            ctrl_queue,
            shared,
            memory,
            call,
            available: 0,
        }
    }

    fn describe(&self, index: u16, address: u64, len_bytes: usize, flags: u16) {
        let at = DESC + 16 * u64::from(index);
        let len_bytes = u32::try_from(len_bytes).unwrap();
        let put = |value: u64, offset| self.memory.write_obj(value, GuestAddress(at + offset));
        let rest = u64::from(len_bytes) | u64::from(flags) << 32 | u64::from(index + 1) << 48;
        put(address, 0).unwrap();
        put(rest, 8).unwrap();
    }

    /// Makes the chain at `head` available.
    fn offer(&mut self, head: u16) {
        let slot = GuestAddress(AVAIL + 4 + 2 * u64::from(self.available % 16));
        self.memory.write_obj(head, slot).unwrap();
        self.available += 1;
        let index = GuestAddress(AVAIL + 2);
        self.memory.write_obj(self.available, index).unwrap();
    }

    /// A command in descriptor 0, with its answer in descriptor 1.
    fn command(&mut self, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(COMMANDS))
            .unwrap();
        self.memory
            .write_obj(0xaa_u8, GuestAddress(STATUS))
            .unwrap();
        self.describe(0, COMMANDS, bytes.len(), NEXT);
        self.describe(1, STATUS, 1, WRITE);
        self.offer(0);
    }

    fn run(&mut self) -> bool {
        self.ctrl_queue.run(false, &self.shared).unwrap()
    }

    /// Runs; what the driver is told.
    fn status(&mut self) -> u8 {
        assert!(self.run());
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// The length in the used element of this number.
    fn used_bytes(&self, number: u64) -> u32 {
        self.memory
            .read_obj(GuestAddress(USED + 8 + 8 * number))
            .unwrap()
    }

    /// How often the driver was called.
    fn calls(&mut self) -> u64 {
        let mut count = [0; 8];
        self.call
            .read_exact(&mut count)
            .map_or(0, |()| u64::from_ne_bytes(count))
    }

    fn counters(&self) -> (u64, u64) {
        let drops = self.shared.drops();
        (drops.command.load(Relaxed), drops.refused.load(Relaxed))
    }

    fn is_obeyed(&self) -> bool {
        let (_, settings) = self.shared.settings();
        settings.filter.modes.no_broadcast
    }
}

#[test]
fn queue_that_is_not_there_has_nothing_to_do() {
    let Stage { shared, .. } = Stage::new();
    let mut ctrl_queue = CtrlQueue::default();
    assert!(!ctrl_queue.run(false, &shared).unwrap());
    assert!(ctrl_queue.may_sleep());
}

#[test]
fn command_is_obeyed_answered_and_the_driver_called_once() {
    let mut stage = Stage::new();
    stage.command(&[0, 5, 0]);
    assert_eq!((stage.status(), stage.is_obeyed()), (0, false));
    stage.command(NO_BROADCAST);
    assert_eq!((stage.status(), stage.is_obeyed()), (0, true));
    assert_eq!(
        (stage.used(), stage.used_bytes(1), stage.calls()),
        (2, 1, 2)
    );
    assert!(!stage.run());
    assert_eq!(
        (stage.used(), stage.calls(), stage.counters()),
        (2, 0, (0, 0))
    );
}

#[test]
fn command_that_is_not_obeyed_is_an_error_and_counted_by_its_reason() {
    let mut stage = Stage::new();
    stage.command(&[77, 0, 1]);
    assert_eq!((stage.status(), stage.counters()), (1, (1, 0)));
    stage.command(&[1, 1, 2, 0, 0, 0, 0, 9]);
    assert_eq!((stage.status(), stage.counters()), (1, (1, 1)));
}

#[test]
fn commands_are_obeyed_eight_at_a_time() {
    let mut stage = Stage::new();
    stage.command(NO_BROADCAST);
    (0..9).for_each(|_| stage.offer(0));
    for (does_something, used, calls) in [(true, 8, 1), (true, 10, 1), (false, 10, 0)] {
        assert_eq!(stage.run(), does_something);
        assert_eq!((stage.used(), stage.calls()), (used, calls));
    }
}

#[test]
fn commander_may_sleep_when_there_is_no_command_and_asks_for_kicks_before() {
    let mut stage = Stage::new();
    let no_notify = GuestAddress(USED);
    stage.memory.write_obj(1_u16, no_notify).unwrap();
    assert!(stage.ctrl_queue.may_sleep());
    assert_eq!(stage.memory.read_obj::<u16>(no_notify).unwrap(), 0);
    stage.command(NO_BROADCAST);
    assert!(!stage.ctrl_queue.may_sleep());
    stage.run();
    assert!(stage.ctrl_queue.may_sleep());
}

#[test]
fn command_cut_into_pieces_is_the_same_command() {
    let mut stage = Stage::new();
    stage.command(NO_BROADCAST);
    stage.describe(0, COMMANDS, 1, NEXT);
    stage.describe(1, COMMANDS + 1, 2, NEXT);
    stage.describe(2, STATUS, 1, WRITE);
    assert_eq!((stage.status(), stage.is_obeyed()), (0, true));
}

#[test]
fn command_without_a_place_for_the_answer_is_not_obeyed() {
    let mut stage = Stage::new();
    stage.command(NO_BROADCAST);
    stage.describe(0, COMMANDS, 3, 0);
    assert!(stage.run());
    assert!(!stage.is_obeyed());
    assert_eq!(
        (stage.used(), stage.used_bytes(0), stage.counters()),
        (1, 0, (1, 0))
    );
    stage.command(NO_BROADCAST);
    stage.describe(1, MEMORY_END, 1, WRITE);
    assert!(stage.run());
    assert_eq!((stage.used(), stage.used_bytes(1)), (2, 0));
}

#[test]
fn command_outside_memory_or_longer_than_any_is_not_obeyed() {
    let mut stage = Stage::new();
    stage.command(NO_BROADCAST);
    stage.describe(0, MEMORY_END - 2, 3, NEXT);
    assert_eq!((stage.status(), stage.counters()), (1, (1, 0)));
    stage.command(NO_BROADCAST);
    stage.describe(0, COMMANDS, COMMAND_MAX_BYTES + 1, NEXT);
    assert_eq!((stage.status(), stage.counters()), (1, (2, 0)));
    assert!(!stage.is_obeyed());
    stage.command(NO_BROADCAST);
    stage.describe(0, COMMANDS, COMMAND_MAX_BYTES, NEXT);
    assert_eq!((stage.status(), stage.is_obeyed()), (0, true));
}

#[test]
fn chain_that_is_malformed_breaks_the_queue() {
    let mut stage = Stage::new();
    stage.command(NO_BROADCAST);
    stage.describe(15, COMMANDS, 1, NEXT);
    stage.offer(15);
    let outcome = stage.ctrl_queue.run(false, &stage.shared);
    let fault = QueueFault::Chain(15, ChainError::Index(16));
    assert_eq!(outcome.unwrap_err().to_string(), fault.to_string());
}
