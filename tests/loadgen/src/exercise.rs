// SPDX-License-Identifier: Apache-2.0
//! Every kind of request once or more, with what must come of it.

use std::time::Duration;

use crate::disk::{Kind, Queue, Request};
use crate::memory::Memory;

/// How long a device may take for a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// The status bytes of virtio-blk.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// What a device is known to be.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its capacity.
    pub capacity_bytes: u64,
    /// Its block size.
    pub block_bytes: u32,
    /// Whether it offers discard.
    pub discard: bool,
    /// Whether it offers write-zeroes.
    pub write_zeroes: bool,
    /// Whether it refuses writes.
    pub readonly: bool,
}

/// The device did something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {found}")]
pub struct Wrong {
    what: &'static str,
    found: String,
}

/// Makes requests one after the other on one queue. Returns the serial number, and how many were
/// made; overwrites the first 64 KiB of the disk.
pub fn run(memory: &Memory, queue: &mut Queue, known: Known) -> Result<(String, u32), Wrong> {
    let mut exercise = Exercise {
        memory,
        queue,
        made: 0,
    };
    let serial = exercise.serial()?;
    exercise.expect("a flush", Kind::Flush, 0, 0, OK)?;
    exercise.expect("an unknown request", Kind::Unknown, 0, 0, UNSUPPORTED)?;
    let (end, block) = (known.capacity_bytes / 512, known.block_bytes);
    let last = end - u64::from(block / 512);
    exercise.expect("a read of the last block", Kind::Read, last, block, OK)?;
    exercise.expect("a read beyond the end", Kind::Read, end, block, IOERR)?;
    exercise.expect("a read across the end", Kind::Read, last, 2 * block, IOERR)?;
    exercise.expect("a read at 2^64", Kind::Read, u64::MAX, block, IOERR)?;
    if known.readonly {
        exercise.expect("a write to a read-only disk", Kind::Write, 0, block, IOERR)?;
    } else {
        exercise.writes(known)?;
    }
    Ok((serial, exercise.made))
}

struct Exercise<'a> {
    memory: &'a Memory,
    queue: &'a mut Queue,
    made: u32,
}

impl Exercise<'_> {
    fn serial(&mut self) -> Result<String, Wrong> {
        self.expect("a request for the serial number", Kind::GetId, 0, 20, OK)?;
        let mut id = [0; 20];
        self.memory.read(&mut id, self.queue.data(0));
        let text = String::from_utf8_lossy(&id);
        Ok(text.trim_end_matches('\0').to_string())
    }

    fn writes(&mut self, known: Known) -> Result<(), Wrong> {
        self.fill(0xa5);
        self.expect("a write", Kind::Write, 0, 65536, OK)?;
        self.holds("what was written", &[(0, 65536, 0xa5)])?;
        if known.write_zeroes {
            self.range("a write of zeroes", Kind::WriteZeroes, (8, 8, 0), OK)?;
            self.range("one that unmaps", Kind::WriteZeroes, (32, 8, 1), OK)?;
            let zeroes = [
                (0, 4096, 0xa5),
                (4096, 8192, 0),
                (8192, 16384, 0xa5),
                (16384, 20480, 0),
                (20480, 65536, 0xa5),
            ];
            self.holds("what was zeroed", &zeroes)?;
            self.range("unknown flags", Kind::WriteZeroes, (0, 8, 4), UNSUPPORTED)?;
            let beyond = (known.capacity_bytes / 512, 8, 0);
            self.range("zeroes beyond the end", Kind::WriteZeroes, beyond, IOERR)?;
        }
        if known.discard {
            self.range("a discard", Kind::Discard, (64, 8, 0), OK)?;
            self.holds("what is beside a discard", &[(20480, 32768, 0xa5)])?;
            self.range(
                "a discard with unmap",
                Kind::Discard,
                (64, 8, 1),
                UNSUPPORTED,
            )?;
        }
        self.expect("a flush after writes", Kind::Flush, 0, 0, OK)
    }

    fn fill(&self, byte: u8) {
        self.memory.write(&[byte; 65536], self.queue.data(0));
    }

    /// Reads 64 KiB back and compares parts of it.
    fn holds(&mut self, what: &'static str, parts: &[(usize, usize, u8)]) -> Result<(), Wrong> {
        self.fill(0x77);
        self.expect("a read", Kind::Read, 0, 65536, OK)?;
        let mut bytes = vec![0; 65536];
        self.memory.read(&mut bytes, self.queue.data(0));
        for (from, to, byte) in parts {
            let found = bytes.iter().take(*to).skip(*from).position(|b| b != byte);
            if let Some(at) = found {
                let found = format!("wrong at {}", from + at);
                return Err(Wrong { what, found });
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        what: &'static str,
        kind: Kind,
        (sector, sectors, flags): (u64, u32, u32),
        status: u8,
    ) -> Result<(), Wrong> {
        let mut range = [0; 16];
        range[..8].copy_from_slice(&sector.to_le_bytes());
        range[8..12].copy_from_slice(&sectors.to_le_bytes());
        range[12..].copy_from_slice(&flags.to_le_bytes());
        self.memory.write(&range, self.queue.data(0));
        self.expect(what, kind, 0, 16, status)
    }

    fn expect(
        &mut self,
        what: &'static str,
        kind: Kind,
        sector: u64,
        len_bytes: u32,
        status: u8,
    ) -> Result<(), Wrong> {
        let wrong = |found: String| Wrong { what, found };
        let request = Request {
            kind,
            sector,
            len_bytes,
        };
        self.made += 1;
        self.queue.prepare(self.memory, 0, request);
        self.queue.show().map_err(|e| wrong(e.to_string()))?;
        if !self.queue.wait(Duration::ZERO, PATIENCE) {
            return Err(wrong("no answer".into()));
        }
        match self.queue.reap() {
            Ok(Some(done)) if done.status == status => Ok(()),
            Ok(Some(done)) => Err(wrong(format!("status {}, expected {status}", done.status))),
            Ok(None) => Err(wrong("no answer".into())),
            Err(fault) => Err(wrong(fault.to_string())),
        }
    }
}
