// SPDX-License-Identifier: Apache-2.0
//! What the tests share: a directory with an image in it, a backend on it, queues of a driver.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use loadgen::connection::{Connection, Place};
use loadgen::disk::{Queue, QueueOptions};
use loadgen::memory::Memory;
use loadgen::program::Program;
use loadgen::ring::RingOptions;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_blk-backend");
/// VIRTIO_F_VERSION_1, EVENT_IDX, INDIRECT_DESC, FLUSH.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 9;
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that goes with the test.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        // On the disk, not in memory: direct I/O is to be tried.
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An image of a size.
    pub(crate) fn image(&self, len_bytes: u64) -> PathBuf {
        let path = self.path("disk.raw");
        File::create(&path).unwrap().set_len(len_bytes).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A backend that runs alone.
pub(crate) struct Backend {
    program: Program,
    pub(crate) socket: PathBuf,
}

impl Backend {
    pub(crate) fn start(dir: &Dir, disk: &str) -> Self {
        let socket = dir.path("blk.sock");
        let mut command = Command::new(BINARY);
        command
            .arg("--socket-path")
            .arg(&socket)
            .args(["--seccomp", "on", "--disk", disk]);
        let program = Program::start(&mut command).unwrap();
        Self { program, socket }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.socket, PATIENCE).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.id()
    }

    /// Waits for its end, which a hang-up brings. Its status, and what it has logged.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        self.program.end().unwrap()
    }
}

/// How the driver's queues are to be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) queues: u16,
    pub(crate) depth: u16,
    pub(crate) segments: u16,
    pub(crate) indirect: bool,
    pub(crate) event_idx: bool,
    pub(crate) start: u16,
}

pub(crate) const SHAPE: Shape = Shape {
    queues: 1,
    depth: 32,
    segments: 1,
    indirect: true,
    event_idx: true,
    start: 0,
};

impl Shape {
    pub(crate) fn features(&self) -> u64 {
        let mut features = FEATURES | 1 << 13 | 1 << 14;
        if !self.event_idx {
            features &= !(1 << 29);
        }
        if !self.indirect {
            features &= !(1 << 28);
        }
        features
    }

    /// Queues in memory of their own, with buffers of 64 KiB.
    pub(crate) fn queues(&self) -> (Memory, Vec<Queue>) {
        let mut memory = Memory::new(64 << 20).unwrap();
        let options = QueueOptions {
            ring: RingOptions {
                size: 128,
                event_idx: self.event_idx,
                start: self.start,
            },
            depth: self.depth,
            buffer_bytes: 65536,
            segments: self.segments,
            indirect: self.indirect,
        };
        let queues = (0..self.queues)
            .map(|_| Queue::new(&mut memory, options).unwrap())
            .collect();
        (memory, queues)
    }
}

pub(crate) fn places(queues: &[Queue]) -> Vec<Place> {
    queues.iter().map(Queue::place).collect()
}
