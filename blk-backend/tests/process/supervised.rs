// SPDX-License-Identifier: Apache-2.0
//! A disk whose backends come and go as under a supervisor, with a driver's queues.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use device_backend::shared_mem::SharedMem;
use host::disk::Access;
use loadgen::connection::{Connection, Place};
use loadgen::disk::Queue;
use loadgen::memory::Memory;
use loadgen::supervised::{DiskSlot, Generation};

use crate::harness::{BINARY, Dir, PATIENCE, Shape, places};

/// Of the disk.
pub(crate) const IMAGE_BYTES: u64 = 16 << 20;

pub(crate) struct Harness {
    pub(crate) dir: Dir,
    pub(crate) slot: DiskSlot,
    pub(crate) memory: Memory,
    pub(crate) queues: Vec<Queue>,
    pub(crate) places: Vec<Place>,
    pub(crate) shape: Shape,
    pub(crate) socket: PathBuf,
}

impl Harness {
    pub(crate) fn new(name: &str, shape: Shape, direct: bool) -> Self {
        let dir = Dir::new(name);
        let image = dir.image(IMAGE_BYTES);
        let access = Access {
            readonly: false,
            direct,
            block_bytes: None,
        };
        let (binary, socket) = (Path::new(BINARY), dir.path("blk.sock"));
        let sizes = (shape.queues, 128);
        let slot = DiskSlot::new(binary, &image, access, &socket, sizes).unwrap();
        let (memory, queues) = shape.queues();
        let places = places(&queues);
        Self {
            dir,
            slot,
            memory,
            queues,
            places,
            shape,
            socket,
        }
    }

    pub(crate) fn bring_up(&self, after_crash: bool) -> (Generation, Connection) {
        let generation = self.slot.start(after_crash).unwrap();
        let mut connection = Connection::open(&self.socket, PATIENCE).unwrap();
        let features = self.shape.features();
        connection
            .start(features, &self.memory, &self.places)
            .unwrap();
        (generation, connection)
    }
}

/// Writes what a dead backend has left in the in-flight region: it had taken these heads, in this
/// order, and given each to its engine; each had been there at so many deaths before.
pub(crate) fn leave_in_flight(harness: &Harness, heads: &[(u16, u8)]) {
    let region = SharedMem::of_file(harness.slot.inflight(), 64).unwrap();
    region.at::<AtomicU16>(10).store(128, Ordering::Relaxed);
    region.at::<AtomicU16>(8).store(1, Ordering::Relaxed);
    let region = SharedMem::of_file(harness.slot.inflight(), 16 + 16 * 128).unwrap();
    for (counter, (head, deaths)) in (0..).zip(heads) {
        let entry = 16 + 16 * usize::from(*head);
        region.at::<AtomicU8>(entry).store(1, Ordering::Relaxed);
        region
            .at::<AtomicU8>(entry + 1)
            .store(deaths << 1 | 1, Ordering::Relaxed);
        region
            .at::<AtomicU64>(entry + 8)
            .store(counter, Ordering::Relaxed);
    }
}
