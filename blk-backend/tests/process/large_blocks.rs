// SPDX-License-Identifier: Apache-2.0
//! Images whose storage reads and writes nothing smaller than 4096 bytes, for guests whose blocks have
//! 512. Real ones take root and a loop device: without, these tests say so and do nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use blk_backend::config::Disk;
use host::disk::{Access, DiskError};
use ipc::record::Geometry;
use loadgen::connection::Connection;
use loadgen::disk::{Kind, Queue, Request};
use loadgen::memory::Memory;
use loadgen::random::Random;
use loadgen::supervised::DiskSlot;
use loadgen::verify::{self, Log, Verify, check_image};
use nix::sched::{CloneFlags, unshare};

use crate::harness::{Backend, Dir, PATIENCE, SHAPE, Shape, places};
use crate::supervised::Harness;

const IMAGE_BYTES: u64 = 1 << 20;
const DIRECT: Access = Access {
    readonly: false,
    direct: true,
    block_bytes: None,
};
const BUFFERED: Access = Access {
    direct: false,
    ..DIRECT
};

fn run(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output().unwrap();
    assert!(output.status.success(), "{command} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A loop device of 4096-byte sectors. The kernel gives it up with the last one who has it open.
struct Loop {
    path: PathBuf,
    _open: File,
}

impl Loop {
    fn new(dir: &Dir) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("SKIPPED: takes root and loop devices");
            return None;
        }
        let back = dir.path("back");
        File::create(&back).unwrap().set_len(64 << 20).unwrap();
        let back = back.to_str().unwrap();
        let path = run("losetup", &["-b", "4096", "-f", "--show", back]);
        let open = File::open(&path).unwrap();
        run("losetup", &["-d", &path]);
        Some(Self {
            path: path.into(),
            _open: open,
        })
    }
}

/// An image on ext4 on such a device, mounted where only this thread sees it.
fn image_on_large_blocks(dir: &Dir) -> Option<PathBuf> {
    let device = Loop::new(dir)?;
    let (device, mount) = (device.path.to_str().unwrap(), dir.path("mnt"));
    std::fs::create_dir(&mount).unwrap();
    run("mkfs.ext4", &["-q", device]);
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &[device, mount.to_str().unwrap()]);
    let image = mount.join("disk.raw");
    File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
    Some(image)
}

/// What a guest sees of an image.
fn seen(image: &Path, access: Access) -> (Geometry, Vec<u8>, u64) {
    let (_file, geometry) = host::disk::open(image, access).unwrap();
    let disk = Disk {
        geometry,
        readonly: false,
        serial: Disk::serial_from("x"),
        queues: 1,
        queue_size: 128,
    };
    (geometry, disk.config().to_vec(), disk.features())
}

#[test]
fn image_on_large_blocks_is_the_same_disk_with_direct_and_without() {
    let dir = Dir::new("large-config");
    let Some(image) = image_on_large_blocks(&dir) else {
        return;
    };
    let (direct, buffered) = (seen(&image, DIRECT), seen(&image, BUFFERED));
    assert_eq!((&direct.1, direct.2), (&buffered.1, buffered.2));
    assert_eq!(direct.0.logical_block_bytes, 512);
    assert!(direct.0.has_partial_blocks() && !buffered.0.has_partial_blocks());
    // A copy of it elsewhere, too.
    let copy = dir.image(IMAGE_BYTES);
    for access in [DIRECT, BUFFERED] {
        assert_eq!(seen(&copy, access).1, direct.1);
    }
    // The option has it otherwise, the same with both.
    let block_bytes = Some(4096);
    let large = |access| {
        seen(
            &image,
            Access {
                block_bytes,
                ..access
            },
        )
    };
    let (direct, buffered) = (large(DIRECT), large(BUFFERED));
    assert_eq!(direct.1, buffered.1);
    assert_eq!(direct.0.logical_block_bytes, 4096);
    assert!(!direct.0.has_partial_blocks());
}

#[test]
fn image_that_ends_within_a_block_is_refused_for_direct_alone() {
    let dir = Dir::new("large-tail");
    let Some(image) = image_on_large_blocks(&dir) else {
        return;
    };
    let bytes = IMAGE_BYTES + 512;
    File::create(&image).unwrap().set_len(bytes).unwrap();
    let refused = host::disk::open(&image, DIRECT).unwrap_err();
    let DiskError::PartialBlock { block_bytes, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(block_bytes, 4096);
    host::disk::open(&image, BUFFERED).unwrap();
}

#[test]
fn block_device_has_its_own_blocks_with_direct_and_without() {
    let dir = Dir::new("large-device");
    let Some(device) = Loop::new(&dir) else {
        return;
    };
    let (direct, buffered) = (seen(&device.path, DIRECT), seen(&device.path, BUFFERED));
    assert_eq!(direct.1, buffered.1);
    assert_eq!(direct.0.logical_block_bytes, 4096);
}

/// One request, done.
fn ask(memory: &Memory, queue: &mut Queue, request: Request) {
    queue.prepare(memory, 0, request);
    queue.show().unwrap();
    assert!(queue.wait(Duration::ZERO, PATIENCE), "{request:?}");
    assert_eq!(queue.reap().unwrap().unwrap().status, 0, "{request:?}");
}

/// What a disk of 512-byte blocks would hold, beside the one that is tried.
struct Model<'a> {
    memory: &'a Memory,
    queue: &'a mut Queue,
    content: Vec<u8>,
}

impl Model<'_> {
    fn part(&self, sector: u64, count: u64) -> std::ops::Range<usize> {
        let at = |sector: u64| usize::try_from(sector * 512).unwrap();
        at(sector)..at(sector + count)
    }

    fn write(&mut self, sector: u64, count: u64, byte: u8) {
        let part = self.part(sector, count);
        self.content[part.clone()].fill(byte);
        self.memory.write(&self.content[part], self.queue.data(0));
        self.ask(Kind::Write, sector, count * 512);
    }

    fn check(&mut self, sector: u64, count: u64) {
        self.ask(Kind::Read, sector, count * 512);
        let part = self.part(sector, count);
        let mut found = vec![0; part.len()];
        self.memory.read(&mut found, self.queue.data(0));
        assert!(found == self.content[part], "{count} at {sector}");
    }

    /// A discard or write-zeroes.
    fn clear(&mut self, kind: Kind, sector: u64, count: u64, flags: u32) {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(u32::try_from(count).unwrap().to_le_bytes());
        range.extend(flags.to_le_bytes());
        self.memory.write(&range, self.queue.data(0));
        self.ask(kind, 0, 16);
    }

    fn ask(&mut self, kind: Kind, sector: u64, len_bytes: u64) {
        let len_bytes = u32::try_from(len_bytes).unwrap();
        let request = Request {
            kind,
            sector,
            len_bytes,
        };
        ask(self.memory, self.queue, request);
    }
}

/// Requests of any length, anywhere; what is read, and what the image holds in the end, is what a disk
/// of 512-byte blocks would hold.
fn requests_at_random(dir: &Dir, image: &Path, options: &str) {
    const SECTORS: u64 = 256;
    let disk = format!("path={},direct{options}", image.display());
    let backend = Backend::start(dir, &disk);
    let mut connection = backend.connect();
    assert_eq!(connection.config().unwrap().block_bytes, 512);
    let shape = Shape {
        segments: 3,
        ..SHAPE
    };
    let (memory, mut queues) = shape.queues();
    connection
        .start(shape.features(), &memory, &places(&queues))
        .unwrap();
    let mut model = Model {
        memory: &memory,
        queue: &mut queues[0],
        content: vec![0; usize::try_from(SECTORS * 512).unwrap()],
    };
    for sector in (0..SECTORS).step_by(128) {
        model.write(sector, 128, 0);
    }
    let mut random = Random::new(11);
    for step in 0_u64..400 {
        let count = 1 + random.below(40).min(random.below(40));
        let sector = random.below(SECTORS - count);
        match random.below(4) {
            0 => model.write(sector, count, u8::try_from(step % 255 + 1).unwrap()),
            1 => {
                let part = model.part(sector, count);
                model.content[part].fill(0);
                model.clear(Kind::WriteZeroes, sector, count, u32::from(step % 2 == 0));
            }
            _ => model.check(sector, count),
        }
    }
    // The blocks that a discard only touches stay as they are.
    model.clear(Kind::Discard, 1, 30, 0);
    model.content[4096..3 * 4096].fill(0);
    model.ask(Kind::Flush, 0, 0);
    let mut found = vec![0; model.content.len()];
    let file = File::open(image).unwrap();
    file.read_exact_at(&mut found, 0).unwrap();
    let differs = found.iter().zip(&model.content).position(|(a, b)| a != b);
    assert_eq!(differs, None);
}

#[test]
fn requests_at_random_on_large_blocks_do_what_they_say() {
    for (name, options) in [("large-uring", ""), ("large-threads", ",engine=threads")] {
        let dir = Dir::new(name);
        if let Some(image) = image_on_large_blocks(&dir) {
            requests_at_random(&dir, &image, options);
            let len = std::fs::metadata(image).unwrap().len();
            assert_eq!(len, IMAGE_BYTES);
        }
        let dir = Dir::new(&format!("{name}-device"));
        if let Some(device) = Loop::new(&dir) {
            let options = format!("{options},block-size=512");
            requests_at_random(&dir, &device.path, &options);
        }
    }
}

/// Queues write, read and flush sectors that they have among themselves, eight to a block, while the
/// backend is killed every few milliseconds: none undoes another's.
fn queues_share_blocks_under_kills(mut harness: Harness, image: &Path, block_bytes: u32) {
    harness.slot.set_storage_blocks(block_bytes);
    let log = Log::create(&harness.dir.path("log")).unwrap();
    let plan = Verify {
        block_bytes: 512,
        depth: harness.shape.depth,
        duration: Duration::from_secs(2),
        requests: 500,
        // Few, so that they meet.
        blocks: 512,
        seed: 5,
        patience: verify::PATIENCE,
        stop: Arc::default(),
        gaps: None,
    };
    let mut queues = std::mem::take(&mut harness.queues);
    let (mut generation, mut connection) = harness.bring_up(false);
    let (mut kills, memory) = (0, &harness.memory);
    let outcome = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify::run(memory, &mut queues, &plan, &log).unwrap());
        while !load.is_finished() {
            std::thread::sleep(Duration::from_millis(20 + 7 * (kills % 11)));
            generation.kill().unwrap().expect("its I/O has ended");
            let next: (_, Connection) = harness.bring_up(false);
            (generation, connection) = next;
            kills += 1;
        }
        load.join().unwrap()
    });
    drop(connection);
    log.finish().unwrap();
    assert!(kills >= 3, "{kills} kills");
    let found = (outcome.errors, outcome.mismatches);
    assert_eq!(found, (0, vec![]), "{kills} kills");
    let (checked, mismatches) = check_image(&harness.dir.path("log"), image, 512).unwrap();
    assert!(checked > 50);
    assert_eq!(mismatches, []);
    println!(
        "SEEN {} writes, {} reads, {kills} kills",
        outcome.writes, outcome.reads
    );
}

const SHARED: Shape = Shape {
    queues: 4,
    depth: 16,
    ..SHAPE
};

#[test]
fn queues_that_share_blocks_lose_nothing_to_each_other_on_uring() {
    let harness = Harness::new("shared-uring", SHARED, false);
    let image = harness.dir.path("disk.raw");
    queues_share_blocks_under_kills(harness, &image, 4096);
}

#[test]
fn queues_that_share_blocks_lose_nothing_to_each_other_on_threads() {
    let mut harness = Harness::new("shared-threads", SHARED, false);
    harness.slot.threads = true;
    let image = harness.dir.path("disk.raw");
    queues_share_blocks_under_kills(harness, &image, 4096);
}

#[test]
fn queues_that_share_real_large_blocks_lose_nothing_to_each_other() {
    for threads in [false, true] {
        let mut harness = Harness::new(&format!("shared-real-{threads}"), SHARED, false);
        let Some(image) = image_on_large_blocks(&harness.dir) else {
            return;
        };
        let (socket, sizes) = (harness.dir.path("real.sock"), (4, 128));
        let binary = Path::new(crate::harness::BINARY);
        harness.slot = DiskSlot::new(binary, &image, DIRECT, &socket, sizes).unwrap();
        harness.slot.threads = threads;
        harness.socket = socket;
        queues_share_blocks_under_kills(harness, &image, 4096);
    }
}
