// SPDX-License-Identifier: Apache-2.0
//! A backend that was taken over, at its io_uring: every opcode there is, on every kind of descriptor,
//! with every flag, and every way to register something. Only what the ring was made for succeeds.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use clap::Args;
use host::ring::{FILE, adopt, create};
use io_uring::{IoUring, opcode, squeue, types};
use ipc::memfd::{Backing, shared};
use loadgen::random::Random;

/// The opcodes a ring may be asked for, as the kernel numbers them; those above exist in no kernel
/// yet.
const OPCODES: u8 = 80;
/// READV, WRITEV, FSYNC, FALLOCATE, READ, WRITE.
const ALLOWED: [u8; 6] = [1, 2, 3, 17, 22, 23];
/// IOSQE_FIXED_FILE
const FIXED_FILE: u8 = 1;
const DISK_LEN: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many requests with random fields, beside every opcode with every flag.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A submission entry as the kernel reads it: 64 bytes.
#[derive(Debug, Clone, Copy)]
struct Raw {
    opcode: u8,
    flags: u8,
    fd: i32,
    rest: [u64; 7],
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut disk = File::from(shared("disk", DISK_LEN, Backing::Shmem)?);
    disk.write_all(b"content")?;
    let (fd, params) = create(8, disk.as_fd()).context("a ring")?;
    let mut ring = adopt(fd, &params)?;
    let refused = registrations(&ring);
    let (mut random, mut tally) = (Random::new(options.seed), Tally::default());
    let mut scratch = vec![0; 4096];
    for opcode in 0..OPCODES {
        for flags in 0..=u8::MAX {
            let raw = Raw::sensible(opcode, flags, &mut scratch);
            tally.add(raw, submit(&mut ring, raw)?)?;
        }
    }
    for _ in 0..options.count {
        let raw = Raw::random(&mut random, &mut scratch);
        tally.add(raw, submit(&mut ring, raw)?)?;
    }
    let read = opcode::Read::new(types::Fixed(FILE), scratch.as_mut_ptr(), 7).build();
    ensure!(
        push(&mut ring, &read)? == 7,
        "the ring does not read any more"
    );
    println!(
        "RESULT opcodes={OPCODES} requests={} allowed={} refused={} registrations_refused={refused}",
        tally.allowed + tally.refused,
        tally.allowed,
        tally.refused,
    );
    ensure!(tally.allowed > 0, "nothing at all was allowed");
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    allowed: u64,
    refused: u64,
}

impl Tally {
    /// Judges an answer: outside the list it can only be EACCES, or what the kernel says before it looks
    /// at restrictions, of opcodes and flags that are not possible at all.
    fn add(&mut self, raw: Raw, result: i32) -> Result<()> {
        let listed = ALLOWED.contains(&raw.opcode) && raw.flags & FIXED_FILE != 0;
        let denied = matches!(-result, libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP);
        ensure!(listed || denied, "{raw:?} was answered with {result}");
        if listed && !denied {
            self.allowed += 1;
        } else {
            self.refused += 1;
        }
        Ok(())
    }
}

impl Raw {
    /// What would do something if it were allowed.
    fn sensible(opcode: u8, flags: u8, scratch: &mut [u8]) -> Self {
        let address = scratch.as_mut_ptr().expose_provenance() as u64;
        // In the kernel's order: offset, address, length and operation flags, user data, the rest.
        Self {
            opcode,
            // A link or a drain would wait for what comes next; a skipped completion would be missed.
            flags: flags & !(1 << 1 | 1 << 2 | 1 << 3 | 1 << 6),
            fd: 0,
            rest: [0, address, 1, 7, 0, 0, 0],
        }
    }

    fn random(random: &mut Random, scratch: &mut [u8]) -> Self {
        let mut raw = Self::sensible(0, 0, scratch);
        let [opcode, flags, fd, what, ..] = random.number().to_le_bytes();
        raw.opcode = opcode % OPCODES;
        raw.flags = flags & !(1 << 1 | 1 << 2 | 1 << 3 | 1 << 6);
        raw.fd = i32::from(fd % 8) - 2;
        // What is allowed gets addresses that are ours, so that only the kernel is in danger.
        if !ALLOWED.contains(&raw.opcode) {
            for word in [0, 2, 4, 5, 6] {
                raw.rest[word] = random.number() >> (what % 64);
            }
        }
        raw
    }

    #[allow(unsafe_code)]
    fn entry(self) -> squeue::Entry {
        let [b0, b1, b2, b3] = self.fd.to_ne_bytes();
        let head = u64::from_ne_bytes([self.opcode, self.flags, 0, 0, b0, b1, b2, b3]);
        let [r0, r1, r2, r3, r4, r5, r6] = self.rest;
        let words = [head, r0, r1, r2, r3, r4, r5, r6];
        const { assert!(size_of::<squeue::Entry>() == size_of::<[u64; 8]>()) };
        // SAFETY: the entry is a transparent wrapper of the kernel's structure of 64 bytes (the size is
        // asserted above), for which every content is valid.
        unsafe { std::mem::transmute(words) }
    }
}

fn submit(ring: &mut IoUring, raw: Raw) -> Result<i32> {
    push(ring, &raw.entry())
}

#[allow(unsafe_code)]
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> Result<i32> {
    // SAFETY: entries that the ring allows name the scratch buffer, which outlives the wait; all others
    // are to be refused, which is what is tested here.
    unsafe { ring.submission().push(entry) }.context("the ring is full")?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().context("no completion")?;
    Ok(completion.result())
}

/// Tries to register what would widen the ring; how many ways were refused, which must be all.
fn registrations(ring: &IoUring) -> u32 {
    let submitter = ring.submitter();
    let null = File::open("/dev/null").map_or(0, |file| file.as_raw_fd());
    let eventfd = nix::sys::eventfd::EventFd::new().map_or(0, |fd| fd.as_fd().as_raw_fd());
    let attempts = [
        submitter.register_files(&[null]).is_err(),
        submitter.register_files_update(0, &[null]).is_err(),
        submitter.unregister_files().is_err(),
        submitter.register_eventfd(eventfd).is_err(),
        submitter.register_restrictions(&mut []).is_err(),
        submitter.register_enable_rings().is_err(),
        submitter.register_personality().is_err(),
        submitter.register_iowq_max_workers(&mut [64, 64]).is_err(),
    ];
    attempts.iter().map(|refused| u32::from(*refused)).sum()
}
