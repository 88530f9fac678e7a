// SPDX-License-Identifier: Apache-2.0
//! `fake-vmm`: takes the place of the vmm where no processor can run a guest. Everything is real
//! but the guest: the jailer starts it as a vmm, its devices are the vmm's own with their threads, and
//! instead of vCPUs a driver in this process loads and checks the first device if that is a disk, or
//! sends back what comes if it is a NIC. What a vmm does on its main thread, a device's or a
//! vCPU's is done behind the same filter here; only the driver's own threads have none.
//!
//! What the driver of a disk is to do is said on the kernel command line: `seconds=`, `depth=`,
//! `blocks=` (of 4 KiB), `queue-size=`, `seed=`; the power button ends it sooner. What came of it is
//! said on the console: `DRIVER ready` when the driver begins, a line `GAP from=… to=…` for each time
//! without a completion, a line `S block n` or `A block n` for each write that was submitted or
//! acknowledged, and `DRIVER done …`. With the word `storm` it drives all devices: see [`storm`].

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use driver::Notify;
use host::clock::monotonic_ns;
use host::heap::Heap;
use host::log;
use ipc::control::{Channel, Ending, FromVmm, ToVmm};
use ipc::fd;
use ipc::health::{self, HealthPage};
use ipc::record::{DeviceKind, Record as _, VmmRecord};
use ipc::seccomp::Mode;
use loadgen::gaps::Gaps;
use loadgen::memory::Memory;
use loadgen::verify::{self, Log, Verify};
use vcpu::Vcpu;
use vmm::await_backends::{Awaited, Patience, await_backends};
use vmm::virtio::Device;

mod driver;
mod nic;
mod record;
mod storm;
mod vcpu;

/// The length of a block of the load.
const BLOCK_BYTES: u32 = 4096;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let record = VmmRecord::read(fd::claim(fd::RECORD)?)?;
    log::init("fake", &record.vm_id, record.log_format);
    let page: &'static HealthPage = Box::leak(Box::new(HealthPage::map(fd::claim(fd::HEALTH)?)?));
    page.main_ns.store(monotonic_ns(), Ordering::Relaxed);
    page.version.store(health::VERSION, Ordering::Relaxed);
    let channel = Arc::new(Channel::from(fd::claim(fd::CONTROL)?));
    let mut memory = Memory::of(fd::claim(fd::vmm::GUEST_RAM)?, record.mem_bytes)?;
    let console = File::from(fd::claim(fd::vmm::CONSOLE)?);

    let guest: &'static _ = Box::leak(Box::new((*memory.bytes()).clone()));
    if record.seccomp == Mode::Trap {
        host::seccomp::report_violations(page)?;
    }
    let devices = Device::make_all(&record, guest, &channel, None)?;
    if await_backends(&devices, &channel, Patience::Endless)? == Awaited::PowerOff {
        channel.send(&FromVmm::Ended(Ending::PowerOff))?;
        std::process::exit(0);
    }
    channel.send(&FromVmm::Started)?;
    let script = Script::of(&record.cmdline);
    if script.storm {
        let kernel = File::from(fd::claim(fd::vmm::KERNEL)?);
        return storm::run(&record, devices, memory, console, &channel, &script, kernel);
    }
    let first = record.devices.first().zip(devices.first());
    let (first, device) = first.context("there is no device")?;
    let button = Arc::<AtomicBool>::default();
    let pressed = Arc::clone(&button);
    let vcpu = Vcpu::start(record.seccomp)?;
    let worker = match first.kind {
        DeviceKind::Block => {
            let mut driver = driver::start(device, &mut memory, first.queues, &script, &vcpu)?;
            std::thread::spawn(move || drive(&memory, &mut driver, &script, pressed, console))
        }
        DeviceKind::Net(nic) => {
            let notify = [Notify::new()?, Notify::new()?];
            let mut nic = nic::start(device, &mut memory, nic.mac, &notify, &vcpu)?;
            writeln!(&console, "DRIVER ready")?;
            std::thread::spawn(move || nic.mirror(&pressed, console))
        }
        _ => bail!("the first device is neither a disk nor a NIC"),
    };
    vmm::seccomp::confine_main(record.seccomp)?;
    serve(&channel, &devices, &button, &worker)?;
    let outcome = worker.join();
    outcome.map_err(|_| anyhow::anyhow!("the driver panicked"))??;
    channel.send(&FromVmm::Ended(Ending::PowerOff))?;
    std::process::exit(0)
}

/// Does what the supervisor asks until the driver is done.
fn serve(
    channel: &Channel,
    devices: &[Device],
    button: &AtomicBool,
    worker: &std::thread::JoinHandle<Result<()>>,
) -> Result<()> {
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;
    while !worker.is_finished() {
        let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 20_u16)? == 0 {
            continue;
        }
        let (message, stream) = channel.receive_with()?.context("the supervisor has gone")?;
        match message {
            ToVmm::PowerButton => button.store(true, Ordering::Relaxed),
            ToVmm::Pause => channel.send(&FromVmm::Paused)?,
            ToVmm::Resume => channel.send(&FromVmm::Resumed)?,
            ToVmm::Save => channel.send(&FromVmm::NotSaved("there is no guest".into()))?,
            ToVmm::Device(slot, message) => Device::dispatch(devices, slot, message, stream),
        }
    }
    Ok(())
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy)]
struct Script {
    seconds: u64,
    depth: u16,
    blocks: u64,
    queue_size: u16,
    seed: u64,
    storm: bool,
}

impl Script {
    fn of(cmdline: &str) -> Self {
        let value = |key: &str| {
            let mut words = cmdline.split(' ');
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        };
        let short = |key: &str, default| {
            value(key).map_or(default, |v: u64| u16::try_from(v).unwrap_or(default))
        };
        Self {
            seconds: value("seconds").unwrap_or(5),
            depth: short("depth", 32),
            blocks: value("blocks").unwrap_or(1024),
            queue_size: short("queue-size", 128),
            seed: value("seed").unwrap_or(1),
            storm: cmdline.split(' ').any(|word| word == "storm"),
        }
    }
}

fn drive(
    memory: &Memory,
    driver: &mut driver::Driver,
    script: &Script,
    stop: Arc<AtomicBool>,
    mut console: File,
) -> Result<()> {
    let gaps = Arc::new(Gaps::default());
    let plan = Verify {
        block_bytes: BLOCK_BYTES,
        depth: script.depth,
        duration: Duration::from_secs(script.seconds),
        requests: 0,
        blocks: script.blocks,
        seed: script.seed,
        patience: verify::PATIENCE,
        stop,
        gaps: Some(Arc::clone(&gaps)),
    };
    let writes = record::Writes::default();
    let log = Log::to(writes.clone());
    writeln!(console, "DRIVER ready")?;
    let teller = (console.try_clone()?, Arc::clone(&gaps));
    std::thread::spawn(move || tell(teller.0, &teller.1));
    let outcome = verify::run(memory, &mut driver.queues, &plan, &log);
    log.finish()?;
    let outcome = outcome?;
    console.write_all(writes.text().as_bytes())?;
    // Each line in one write: another thread tells of gaps.
    for mismatch in &outcome.mismatches {
        console.write_all(format!("MISMATCH: {mismatch}\n").as_bytes())?;
    }
    let verify::Outcome {
        writes,
        reads,
        flushes,
        errors,
        ..
    } = outcome;
    let mismatches = outcome.mismatches.len();
    let done = format!(
        "DRIVER done writes={writes} reads={reads} flushes={flushes} errors={errors} \
         mismatches={mismatches}\n"
    );
    Ok(console.write_all(done.as_bytes())?)
}

/// Tells of gaps, soon after they are over.
fn tell(mut console: File, gaps: &Gaps) {
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let lines = gaps.take().into_iter();
        let lines: String = lines
            .map(|(from, to)| format!("GAP from={from} to={to}\n"))
            .collect();
        if console.write_all(lines.as_bytes()).is_err() {
            return;
        }
    }
}
