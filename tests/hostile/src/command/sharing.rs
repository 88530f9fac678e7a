// SPDX-License-Identifier: Apache-2.0
//! A backend that abuses everything it shares with the vmm: it shortens memfds and punches holes into
//! them, makes eventfds block and fills them, lets ring indices jump, uses what was never available,
//! and scribbles over the in-flight region, all while the driver resets the device and other backends
//! are attached.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use devices::virtio::vhost_user::events::DeviceEvent;
use devices::virtio::vhost_user::inflight::InflightRegion;
use devices::virtio::vhost_user::spec::{Origin, Timeouts};
use loadgen::random::Random;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::unistd::ftruncate;
use vm_memory::{Bytes, GuestAddress};

use super::behaviour::{CONFIG, Plan, serve};
use crate::machine::{Machine, QUEUE_SIZE, machine};
use crate::message::{Peer, QUEUES, Received};

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// For how many seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What backends have done.
#[derive(Debug, Default)]
struct Deeds {
    stop: AtomicBool,
    /// Attempts to resize or seal memory, all of them refused.
    refused: AtomicU64,
    /// Some that was not refused.
    conceded: AtomicU64,
    holes: AtomicU64,
    filled: AtomicU64,
    rubbish: AtomicU64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let inflight = ipc::inflight::create(QUEUES, QUEUE_SIZE)?;
    let scribbled = File::from(inflight.try_clone()?);
    let timeouts = Timeouts {
        connect: Duration::from_millis(500),
        drain: Duration::from_millis(500),
    };
    let deeds = Arc::<Deeds>::default();
    let scribbler = scribbler(scribbled, Arc::clone(&deeds), options.seed)?;
    let (mut lives, mut longest) = (0_u64, Duration::ZERO);
    let mut vcpus = Vec::new();
    let mut region = Some(InflightRegion::map(inflight)?);
    for origin in [Origin::Own, Origin::Foreign] {
        let machine = machine(origin, timeouts, region.take())?;
        machine
            .device()
            .attach(hostile(&deeds, options.seed)?.into());
        ensure!(matches!(machine.report(LIMIT)?, DeviceEvent::Connected));
        machine.start_driver()?;
        let vcpu = machine.vcpu()?;
        let end = Instant::now() + Duration::from_secs(options.seconds).div_f32(2.0);
        while Instant::now() < end {
            lives += 1;
            longest = longest.max(life(&machine, &deeds, lives + options.seed)?);
        }
        vcpus.push(vcpu.finish()?);
    }
    deeds.stop.store(true, Ordering::Relaxed);
    ensure!(scribbler.join().is_ok(), "the scribbler ended early");
    let count = |deed: &AtomicU64| deed.load(Ordering::Relaxed);
    println!(
        "RESULT lives={lives} refused={} conceded={} holes={} filled={} rubbish={} longest_reset_ms={} {}",
        count(&deeds.refused),
        count(&deeds.conceded),
        count(&deeds.holes),
        count(&deeds.filled),
        count(&deeds.rubbish),
        longest.as_millis(),
        vcpus.join(" "),
    );
    ensure!(
        count(&deeds.conceded) == 0,
        "memory could be resized or sealed"
    );
    for deed in [&deeds.refused, &deeds.holes, &deeds.filled, &deeds.rubbish] {
        ensure!(count(deed) > 0, "some malice was never tried");
    }
    Ok(())
}

/// One round of the driver and the supervisor with whatever backend there is: the driver resets and
/// starts the device, the backend is replaced, all of memory is read.
fn life(machine: &Machine, deeds: &Arc<Deeds>, seed: u64) -> Result<Duration> {
    std::thread::sleep(Duration::from_millis(3));
    machine.device().attach(hostile(deeds, seed)?.into());
    std::thread::sleep(Duration::from_millis(3));
    // What it did may have cost it the connection; then a reset ends once it is fenced.
    machine.device().fenced();
    let took = machine.reset_driver(LIMIT)?;
    machine.device().attach(hostile(deeds, !seed)?.into());
    machine.start_driver()?;
    machine.device().drain();
    machine.device().resume();
    let mut all = vec![0; 1 << 20];
    for part in 0..4 {
        machine
            .memory
            .read_slice(&mut all, GuestAddress(part << 20))?;
    }
    // Nobody waits for reports here; that there are some shows that the thread lives.
    machine.report(LIMIT)?;
    while machine.report(Duration::ZERO).is_ok() {}
    Ok(took)
}

/// A new backend on a thread of its own, which ends with its connection.
fn hostile(deeds: &Arc<Deeds>, seed: u64) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let deeds = Arc::clone(deeds);
    let work = move || {
        let mut peer = Peer::new(theirs, &CONFIG);
        let mut random = Random::new(seed);
        let _ = serve(&mut peer, Plan::HONEST, |received| {
            abuse(received, &deeds, &mut random);
            true
        });
    };
    std::thread::Builder::new()
        .name("hostile".into())
        .spawn(work)?;
    Ok(ours)
}

/// Does everything at once to whatever there is by now.
fn abuse(received: &Received, deeds: &Deeds, random: &mut Random) {
    for (base, len, _, file) in &received.memory {
        let attempts = [
            ftruncate(file, 0),
            ftruncate(file, i64::MAX),
            fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).map(drop),
        ];
        for attempt in attempts {
            let deed = match attempt {
                Err(Errno::EPERM | Errno::EINVAL) => &deeds.refused,
                _ => &deeds.conceded,
            };
            deed.fetch_add(1, Ordering::Relaxed);
        }
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let at = i64::try_from(random.below(*len) & !0xfff).unwrap_or(0);
        if fallocate(file, hole, at, 0x10000).is_ok() {
            deeds.holes.fetch_add(1, Ordering::Relaxed);
        }
        for ring in received.rings.values() {
            for address in ring.addresses {
                let mut rubbish = [0; 72];
                rubbish.fill_with(|| random.number().to_be_bytes()[0]);
                // The test machine's memory is one file from its beginning.
                let offset = address.wrapping_sub(*base);
                if offset < *len && file.write_all_at(&rubbish, offset).is_ok() {
                    deeds.rubbish.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    for ring in received.rings.values() {
        for eventfd in [&ring.kick, &ring.call].into_iter().flatten() {
            let _ = fcntl(eventfd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let full = std::io::Write::write(&mut &*eventfd, &(u64::MAX - 1).to_ne_bytes());
            let _ = fcntl(eventfd, FcntlArg::F_SETFL(OFlag::empty()));
            deeds
                .filled
                .fetch_add(u64::from(full.is_ok()), Ordering::Relaxed);
        }
    }
}

/// Writes rubbish over the in-flight region for as long as it may.
fn scribbler(region: File, deeds: Arc<Deeds>, seed: u64) -> Result<std::thread::JoinHandle<()>> {
    let work = move || {
        let mut random = Random::new(seed);
        let len = region.metadata().map_or(0, |metadata| metadata.len());
        while !deeds.stop.load(Ordering::Relaxed) {
            let at = random.below(len.saturating_sub(8).max(1));
            let _ = region.write_all_at(&random.number().to_ne_bytes(), at);
            std::thread::sleep(Duration::from_micros(100));
        }
    };
    let thread = std::thread::Builder::new().name("scribbler".into());
    thread.spawn(work).context("a thread")
}
