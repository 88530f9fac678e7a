// SPDX-License-Identifier: Apache-2.0
//! A storm: everything that a user can do to a VM and everything that may happen to it, at random and
//! at once, under a driver that verifies. The VM has a disk of each engine and a NIC. Either
//! everything is real but the guest, whose place `fake-vmm` takes, and the driver has many queues,
//! much outstanding and the NIC as well; or everything is real, and the guest is a few hundred bytes.
//!
//! The plan follows from a seed, which is printed, so that the same plan can be run again. What comes of
//! it depends on the machine as well: the same plan finds a fault again more often than not.

mod act;
mod book;
mod ledger;
pub mod plan;
mod settle;
mod storage;
mod tolerant;
mod watch;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::Context;
use crate::exchange::Exchange;
use crate::exchange::wires::{Frames, MAC, TAP};
use crate::harness::{Device, Harness, Setup};
use crate::network::enter_empty;
use crate::no_os_kernel::{NoOsKernel, verifier};
use book::Book;
use ledger::Ledger;
use storage::Freezable;
use tolerant::Tolerant;

/// Blocks of each disk that are written; the fewer, the sooner each is written again.
const BLOCKS: u64 = 512;
const IMAGE_BYTES: u64 = 64 << 20;

/// Who drives the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `fake-vmm`, in the place of the vmm.
    FakeVmm,
    /// A guest without an operating system, in a real vmm.
    Guest,
}

impl Driver {
    /// How it is told to reboot.
    fn reboot(self) -> &'static str {
        match self {
            Self::FakeVmm => "reboot\n",
            Self::Guest => "R",
        }
    }

    /// How it is told to reset a device.
    fn reset(self, device: usize) -> String {
        match self {
            Self::FakeVmm => format!("reset {device}\n"),
            Self::Guest => device.to_string(),
        }
    }
}

/// The VM and what is around it.
struct Scene<'a> {
    context: &'a Context,
    driver: Driver,
    /// Dropped first, and needs a thawed storage to end: see [`Self::finish`].
    harness: Harness,
    storage: Freezable,
    images: [PathBuf; 2],
    /// Where the driver's orders are appended.
    orders: File,
    /// Kinds of action that are left out.
    without: Vec<String>,
    book: Book,
}

/// Runs the storm that follows from the seed, for so long, under this driver.
///
/// # Errors
/// When anything that is guaranteed did not hold; [`crate::context::Skip`] when not root.
pub fn run(context: &Context, driver: Driver, length: Duration) -> Result<()> {
    let seed = context.seed();
    let plan = plan::plan(seed, length);
    println!("SEEN storm seed={seed} seconds={}", length.as_secs());
    println!("the plan: {} steps, {:?}", plan.len(), plan::counts(&plan));
    for (number, step) in plan.iter().enumerate() {
        println!(
            "  #{number} after {} us: {}",
            step.delay.as_micros(),
            step.action
        );
    }
    let mut scene = Scene::make(context, driver, seed)?;
    let exchange = match driver {
        Driver::FakeVmm => Some(Exchange::start(Tolerant(Frames::new()?))),
        Driver::Guest => None,
    };
    let outcome = scene.weather(&plan);
    // Whatever it was, nothing may stay frozen or stopped.
    let outcome = scene.calm().and(outcome);
    let outcome = outcome.and_then(|()| scene.settle(exchange));
    if outcome.is_err() {
        scene.book.print_all();
        println!("--- the log of the VM\n{}---", scene.harness.log());
    }
    scene.book.print_counts();
    outcome.with_context(|| {
        let last = scene.book.last();
        format!("the storm of seed {seed}; the last things done were:\n{last}\nwhat failed")
    })?;
    scene.finish(seed)
}

impl<'a> Scene<'a> {
    fn make(context: &'a Context, driver: Driver, seed: u64) -> Result<Self> {
        enter_empty()?;
        let storage = Freezable::make(context)?;
        let images = ["disk0", "disk1"].map(|name| storage.dir().join(name));
        for image in &images {
            File::create(image)?.set_len(IMAGE_BYTES)?;
        }
        let direct = |disk: u64| if seed >> disk & 1 == 0 { "" } else { ",direct" };
        let first = format!(",queues=4,engine=uring{}", direct(0));
        let second = format!(
            "path={},queues=4,engine=threads{}",
            images[1].display(),
            direct(1)
        );
        let more = ["--disk", &second, "--net", &format!("tap={TAP},mac={MAC}")].map(str::to_owned);
        let guest = NoOsKernel::new().say("DRIVER ready\n").verify();
        let setup = Setup {
            guest: (driver == Driver::Guest).then_some(&guest),
            blocks: BLOCKS,
            image: Some(&images[0]),
            more: &more,
            words: &format!("storm seed={seed}"),
            ..Setup::new(context, 0)
        };
        let harness = Harness::start_as(context, "storm", setup, Device::Disk(&first))?;
        let orders = match driver {
            Driver::FakeVmm => File::options()
                .append(true)
                .open(harness.dir().join("kernel"))?,
            Driver::Guest => harness.pty()?,
        };
        for program in ["blk-backend", "net-backend"] {
            act::other_build(context, harness.dir(), program)?;
        }
        let without = std::env::var(act::WITHOUT).unwrap_or_default();
        let without = without.split(',').map(str::to_owned).collect();
        Ok(Self {
            context,
            driver,
            harness,
            storage,
            images,
            orders,
            without,
            book: Book::new(),
        })
    }

    /// Carries out the plan.
    fn weather(&self, plan: &[plan::Step]) -> Result<()> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(&over));
            let mut due = Instant::now();
            for (number, step) in plan.iter().enumerate() {
                due += step.delay;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if self.book.is_failed() {
                    break;
                }
                self.begin(scope, number, step.action);
            }
            while self.book.busy() > 0 {
                thread::sleep(Duration::from_millis(20));
            }
            over.store(true, Ordering::SeqCst);
            if watch.join().is_err() {
                bail!("a thread panicked");
            }
            Ok(())
        })?;
        self.book.verdict()
    }

    /// The VM has ended in good order: what it left is what was promised.
    fn finish(self, seed: u64) -> Result<()> {
        let outcome = match self.driver {
            Driver::FakeVmm => self.check_ledger(seed),
            Driver::Guest => self.check_blocks(seed),
        };
        if outcome.is_err() {
            self.book.print_all();
            println!("--- the driver said\n{}---", self.harness.console());
        }
        outcome?;
        let name = self.harness.name().to_owned();
        drop(self.harness);
        self.storage.end()?;
        let left = crate::procs::cgroups_of(&name);
        ensure!(left.is_empty(), "control groups are left: {left:?}");
        let left = crate::network::interfaces()?;
        ensure!(left == ["lo"], "interfaces are left: {left:?}");
        Ok(())
    }

    /// What the fake vmm said, and what the images hold.
    fn check_ledger(&self, seed: u64) -> Result<()> {
        let ledger = Ledger::read(&self.harness.console())?;
        let mut checked = 0;
        for (disk, image) in self.images.iter().enumerate() {
            checked += ledger.check(disk, image)?;
        }
        let sums: Vec<_> = ledger
            .sums
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        println!(
            "SEEN storm seed={seed} runs={} blocks_checked={checked} {}",
            ledger.runs,
            sums.join(" ")
        );
        Ok(())
    }

    /// The guest compares what it reads itself; no block of an image is torn.
    fn check_blocks(&self, seed: u64) -> Result<()> {
        let console = self.harness.console();
        ensure!(!console.contains("FAULT"), "the guest says {console}");
        let mut written = 0;
        for image in &self.images {
            let bytes = std::fs::read(image)?;
            let blocks = bytes.chunks(verifier::BLOCK_BYTES).take(verifier::BLOCKS);
            for (number, block) in blocks.enumerate() {
                ensure!(
                    verifier::is_whole(block),
                    "block {number} of {} is torn",
                    image.display()
                );
                written += usize::from(block.iter().any(|byte| *byte != 0));
            }
        }
        ensure!(written > 0, "nothing was written");
        let runs = console.matches("ready").count();
        println!("SEEN storm seed={seed} driver=guest runs={runs} blocks_written={written}");
        Ok(())
    }
}
