// SPDX-License-Identifier: Apache-2.0
//! Drivers that break the rules: the queue is given up, the process lives, and a press waits for the
//! next driver.

use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use device_backend::shared_mem::SharedMem;
use ipc::health::{BROKEN, HAS_DRIVER};
use loadgen::ring::{Descriptor, INDIRECT, NEXT};
use vm_memory::GuestAddress;

use crate::harness::{Harness, Queue, SIZE};

/// Spoils a queue that has its buffers.
type Spoil = fn(&mut Queue, &SharedMem);

const WAYS: [(&str, Spoil); 7] = [
    ("outside", |queue, _| {
        let buffer = Descriptor {
            address: GuestAddress(1 << 40),
            ..queue.buffer(2)
        };
        queue.ring.describe(2, buffer);
    }),
    ("short", |queue, _| {
        let buffer = Descriptor {
            len_bytes: 7,
            ..queue.buffer(2)
        };
        queue.ring.describe(2, buffer);
    }),
    ("readable", |queue, _| {
        let buffer = Descriptor {
            flags: 0,
            ..queue.buffer(2)
        };
        queue.ring.describe(2, buffer);
    }),
    ("loop", |queue, _| {
        let buffer = queue.buffer(2);
        let buffer = Descriptor {
            flags: buffer.flags | NEXT,
            next: 2,
            ..buffer
        };
        queue.ring.describe(2, buffer);
    }),
    ("indirect", |queue, _| {
        let buffer = queue.buffer(2);
        let flags = buffer.flags | INDIRECT;
        queue.ring.describe(2, Descriptor { flags, ..buffer });
    }),
    ("head", |_, available| {
        available.at::<AtomicU16>(4 + 2).store(SIZE.to_le(), SeqCst);
    }),
    ("index", |_, available| {
        let ahead = (SIZE + 1).to_le();
        available.at::<AtomicU16>(2).store(ahead, SeqCst);
    }),
];

#[test]
fn driver_that_breaks_its_queue_loses_it_and_the_next_one_gets_the_press() {
    for (name, spoil) in WAYS {
        let mut button = Harness::new(name, 0);
        button.events.offer(0..8);
        let [_, available, _] = button.events.ring.addresses();
        let available = button.memory.window(available, 6 + 2 * usize::from(SIZE));
        spoil(&mut button.events, &available.unwrap());
        button.bring_up();
        button.press();
        button.wait_for_flag(0, BROKEN);
        assert!(!button.has_flag(0, HAS_DRIVER));
        assert_eq!(button.events.ring.used_idx(), 0, "{name}");

        // The driver resets the device.
        button.kill();
        button.reset();
        button.events.offer(0..8);
        button.bring_up();
        button.expect_presses(1);
    }
}

#[test]
fn status_queue_that_is_broken_does_not_keep_a_press_back() {
    let mut button = Harness::new("status", 0);
    button.events.offer(0..8);
    button.bring_up();
    let [_, available, _] = button.status.ring.addresses();
    let available = button.memory.window(available, 4).unwrap();
    available.at::<AtomicU16>(2).store(1000_u16.to_le(), SeqCst);
    button.status.fds.kick.write(1).unwrap();
    button.wait_for_flag(1, BROKEN);
    button.press();
    button.expect_presses(1);
    std::thread::sleep(Duration::from_millis(10));
    assert!(button.has_flag(0, HAS_DRIVER));
}
