// SPDX-License-Identifier: Apache-2.0
//! A small guest can ask for as much as it likes, because the buffers of its requests may be the same
//! memory. What of that has to be copied takes little, however much it is.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use loadgen::disk::{Kind, Queue, Request};
use loadgen::memory::Memory;
use loadgen::ring::{Descriptor, NEXT, WRITE};
use vm_memory::GuestAddress;

use crate::harness::{Backend, Dir, PATIENCE, SHAPE, Shape, places};
use crate::supervised::{Harness, IMAGE_BYTES, leave_in_flight};

/// Of each request.
const LEN_BYTES: u32 = 8 << 20;
/// Of the process, where all requests together are of 256 MiB.
const MOST_KIB: u64 = 64 << 10;
const PLAIN: Shape = Shape {
    indirect: false,
    ..SHAPE
};

/// Writes to an image what is read.
fn fill(image: &Path) {
    let file = std::fs::File::options().write(true).open(image).unwrap();
    file.write_all_at(&[0x5a; 4096], 0).unwrap();
}

/// Offers as many reads as there is room for, all to the same place, which is aligned for nothing.
fn prepare(memory: &mut Memory, queue: &mut Queue) -> GuestAddress {
    let shared = memory.take(u64::from(LEN_BYTES) + 4096).unwrap();
    let address = GuestAddress(shared.0 + 1);
    for slot in 0..PLAIN.depth {
        let request = Request {
            kind: Kind::Read,
            sector: 0,
            len_bytes: 512,
        };
        queue.prepare(memory, slot, request);
        let head = queue.head(slot);
        let data = Descriptor {
            address,
            len_bytes: LEN_BYTES,
            flags: NEXT | WRITE,
            next: head + 2,
        };
        queue.ring.describe(head + 1, data);
    }
    queue.show().unwrap();
    address
}

/// Waits for the answers, looks at what was read, and at the memory of the process.
fn check(memory: &Memory, queue: &mut Queue, address: GuestAddress, pid: u32) {
    for _ in 0..PLAIN.depth {
        assert!(queue.wait(Duration::ZERO, PATIENCE), "no answer");
        let done = queue.reap().unwrap().unwrap();
        assert_eq!((done.status, done.written_bytes), (0, LEN_BYTES + 1));
    }
    let mut read = [0; 4097];
    memory.read(&mut read, address);
    assert_eq!((read[0], read[4095], read[4096]), (0x5a, 0x5a, 0));
    let peak_kib = peak_kib(pid);
    assert!(peak_kib < MOST_KIB, "{peak_kib} KiB");
}

/// The most memory that a process has had.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

#[test]
fn requests_that_have_to_be_copied_take_little_memory_however_many_there_are() {
    let dir = Dir::new("copied");
    let image = dir.image(IMAGE_BYTES);
    fill(&image);
    let backend = Backend::start(&dir, &format!("path={},direct", image.display()));
    let mut connection = backend.connect();
    let (mut memory, mut queues) = PLAIN.queues();
    let address = prepare(&mut memory, &mut queues[0]);
    connection
        .start(PLAIN.features(), &memory, &places(&queues))
        .unwrap();
    check(&memory, &mut queues[0], address, backend.pid());
}

#[test]
fn requests_left_by_a_predecessor_that_have_to_be_copied_take_little_memory() {
    let mut harness = Harness::new("copied-again", PLAIN, true);
    fill(&harness.dir.path("disk.raw"));
    let address = prepare(&mut harness.memory, &mut harness.queues[0]);
    let heads: Vec<_> = (0..PLAIN.depth)
        .map(|slot| (harness.queues[0].head(slot), 0))
        .collect();
    leave_in_flight(&harness, &heads);
    let (generation, _connection) = harness.bring_up(true);
    check(
        &harness.memory,
        &mut harness.queues[0],
        address,
        generation.pid(),
    );
}
