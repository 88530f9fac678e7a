// SPDX-License-Identifier: Apache-2.0
//! What a guest must not do ends its queue or its request, and nothing else.

use std::time::{Duration, Instant};

use loadgen::disk::{Kind, Queue, Request};
use loadgen::memory::Memory;
use loadgen::ring::{Descriptor, INDIRECT, NEXT, WRITE};
use vm_memory::GuestAddress;

use crate::harness::{Backend, Dir, PATIENCE, SHAPE, Shape, places};

const READ: Request = Request {
    kind: Kind::Read,
    sector: 0,
    len_bytes: 4096,
};

/// One good request on a queue; whether it was answered.
fn works(memory: &Memory, queue: &mut Queue) -> bool {
    queue.prepare(memory, 0, READ);
    queue.show().unwrap();
    queue.wait(Duration::ZERO, PATIENCE) && queue.reap().unwrap().unwrap().status == 0
}

/// Lets the driver of queue 0 do something, which must break this queue, be reported at the error
/// eventfd and in the log, and leave queue 1 alone.
fn breaks_its_queue(name: &str, logged: &str, fault: impl FnOnce(&Memory, &mut Queue)) {
    let dir = Dir::new(name);
    let image = dir.image(1 << 20);
    let mut backend = Backend::start(&dir, &format!("path={},queues=2", image.display()));
    let mut connection = backend.connect();
    let shape = Shape { queues: 2, ..SHAPE };
    let (memory, mut queues) = shape.queues();
    connection
        .start(shape.features(), &memory, &places(&queues))
        .unwrap();
    assert!(works(&memory, &mut queues[0]));
    fault(&memory, &mut queues[0]);
    queues[0].fds.kick.write(1).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while queues[0].fds.error.read().is_err() {
        assert!(Instant::now() < deadline, "nothing was reported");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(works(&memory, &mut queues[1]));
    drop(connection);
    let (status, log) = backend.end();
    assert!(status.success(), "{log}");
    assert!(log.contains(logged), "{log}");
}

fn descriptor(address: u64, len_bytes: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address: GuestAddress(address),
        len_bytes,
        flags,
        next,
    }
}

fn offer(queue: &mut Queue, chain: &[Descriptor]) {
    for (index, descriptor) in (0..).zip(chain) {
        queue.ring.describe(index, *descriptor);
    }
    queue.ring.offer(0);
    queue.ring.show();
}

#[test]
fn chain_that_loops_breaks_its_queue() {
    breaks_its_queue("loop", "longer than the queue", |_, queue| {
        offer(queue, &[descriptor(0x1000, 16, NEXT, 0)]);
    });
}

#[test]
fn chain_that_leaves_the_table_breaks_its_queue() {
    breaks_its_queue("leaves", "outside the table", |_, queue| {
        offer(queue, &[descriptor(0x1000, 16, NEXT, 128)]);
    });
}

#[test]
fn chain_with_nested_tables_breaks_its_queue() {
    breaks_its_queue("nested", "refers to another", |memory, queue| {
        let table = queue.data(1);
        let mut inner = [0; 16];
        inner[8..12].copy_from_slice(&16_u32.to_le_bytes());
        inner[12..14].copy_from_slice(&INDIRECT.to_le_bytes());
        memory.write(&inner, table);
        offer(queue, &[descriptor(table.0, 16, INDIRECT, 0)]);
    });
}

#[test]
fn chain_without_a_status_byte_breaks_its_queue() {
    breaks_its_queue("statusless", "cannot be answered", |_, queue| {
        offer(queue, &[descriptor(0x1000, 16, 0, 0)]);
    });
}

#[test]
fn head_outside_the_table_breaks_its_queue() {
    breaks_its_queue("head", "outside the descriptor table", |_, queue| {
        queue.ring.offer(500);
        queue.ring.show();
    });
}

#[test]
fn available_index_that_jumps_breaks_its_queue() {
    breaks_its_queue("jump", "ahead", |memory, queue| {
        let [_, avail, _] = queue.ring.addresses();
        memory.write(&1000_u16.to_le_bytes(), GuestAddress(avail.0 + 2));
    });
}

#[test]
fn request_whose_data_is_nowhere_fails_alone() {
    let dir = Dir::new("nowhere");
    let image = dir.image(1 << 20);
    let backend = Backend::start(&dir, &format!("path={}", image.display()));
    let mut connection = backend.connect();
    let shape = Shape {
        indirect: false,
        ..SHAPE
    };
    let (memory, mut queues) = shape.queues();
    connection
        .start(shape.features(), &memory, &places(&queues))
        .unwrap();
    let queue = &mut queues[0];
    queue.prepare(&memory, 0, READ);
    queue
        .ring
        .describe(1, descriptor(u64::MAX - 4096, 4096, NEXT | WRITE, 2));
    queue.show().unwrap();
    assert!(queue.wait(Duration::ZERO, PATIENCE));
    assert_eq!(queue.reap().unwrap().unwrap().status, 1);
    assert!(works(&memory, queue));
}

/// Of the starter's making, not the guest's: nothing but the write fails.
#[test]
fn write_beyond_the_limit_on_file_sizes_fails_and_nothing_else() {
    for engine in ["uring", "threads"] {
        let dir = Dir::new(&format!("file-limit-{engine}"));
        let image = dir.image(4 << 20);
        let disk = format!("path={},engine={engine}", image.display());
        let mut backend = Backend::start(&dir, &disk);
        let mut connection = backend.connect();
        limit_files(backend.pid(), 1 << 20);
        let (memory, mut queues) = SHAPE.queues();
        connection
            .start(SHAPE.features(), &memory, &places(&queues))
            .unwrap();
        for (sector, status) in [(0, 0), (4096, 1)] {
            let write = Request {
                kind: Kind::Write,
                sector,
                len_bytes: 4096,
            };
            queues[0].prepare(&memory, 0, write);
            queues[0].show().unwrap();
            assert!(queues[0].wait(Duration::ZERO, PATIENCE), "{engine}");
            let answered = queues[0].reap().unwrap().unwrap();
            assert_eq!(answered.status, status, "{engine}, sector {sector}");
        }
        assert!(works(&memory, &mut queues[0]), "{engine}");
        drop(connection);
        let (ended, log) = backend.end();
        assert!(ended.success(), "{engine}: {log}");
    }
}

#[allow(unsafe_code)]
fn limit_files(pid: u32, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    let pid = pid.cast_signed();
    // SAFETY: the new limit is read from a structure of its size, the old one is not asked for.
    let set = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
}
