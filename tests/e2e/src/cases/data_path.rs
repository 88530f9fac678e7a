// SPDX-License-Identifier: Apache-2.0
//! What the data path of a disk costs: with messages for interrupts no wake-up of the vmm at all, with
//! lines for interrupts some exits, which are told; and how many requests share an interrupt.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::inspect;
use crate::machine::Machine;
use crate::vm::{PATIENCE, Stock, Vm};

/// How many requests the guest makes at least.
const REQUESTS: u64 = 10_000;
/// How often all threads but the vCPUs' may have been switched to or from meanwhile.
const SWITCHES_MAX: u64 = 20;
/// How often that is counted at most.
const COUNTS_MAX: u32 = 3;
/// What the guest is given to fall silent.
const SILENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether the requests are done.
const REST: Duration = Duration::from_millis(500);
/// The sequential reads of the second case: so many, each of so many requests of one page at once.
const READS: u64 = 200;
const DEPTH: u64 = 32;
const PAGE: u64 = 4096;
/// So many requests share an interrupt at least.
const REQUESTS_FOR_AN_INTERRUPT: u64 = 8;
/// The same on the AIA, whose interrupts cost no exit: 210 to 2,283 for 6,400 requests were seen there.
const REQUESTS_FOR_A_DIRECT_INTERRUPT: u64 = 2;
/// How often the reads are made at most.
const ROUNDS_MAX: u32 = 5;

pub(super) fn cases() -> Vec<Case> {
    let wakes = "data_path_of_10000_requests_wakes_no_thread_of_the_vmm";
    let shares = "data_path_at_depth_32_shares_interrupts";
    let limit = Duration::from_secs(240);
    vec![
        Case::guest(wakes, wakes_none)
            .within(limit)
            .not_on(&[Machine::Plic], "lines go by the vmm"),
        Case::guest(shares, shares_interrupts).within(limit),
    ]
}

/// A guest with a shell that has loaded the disk's driver.
fn start(context: &Context) -> Result<Vm> {
    let image = context.sparse_file("image", 64 << 20)?;
    let disk = format!("path={}", image.display());
    let builder = context.vm("data-path").boots(Stock::DEFAULT, "shell");
    let mut vm = builder.mem_mib(256).cpus(2).arg("--disk", disk).start()?;
    vm.wait_for("guest# ", PATIENCE)?;
    vm.type_line("stty -echo; PS1=; echo quiet''ly")?;
    vm.wait_for("quietly", PATIENCE)?;
    // The kernel splits each read into requests of a page.
    vm.sh(
        "for x in virtio_pci virtio_blk; do while read -r m f; do [ $m != $x ] || \
         for i in $f; do insmod /mod/$i 2> /dev/null; done; done < /mod/order; done; \
         until [ -b /dev/vda ]; do sleep 0.1; done; echo 4 > /sys/block/vda/queue/max_sectors_kb",
    )?;
    Ok(vm)
}

/// Interrupts for each request: EVENT_IDX lets requests that are under way at once share one.
fn shares_interrupts(context: &Context) -> Result<()> {
    let mut vm = start(context)?;
    let mut is_shared = false;
    for _ in 0..ROUNDS_MAX {
        is_shared = shared(context, &mut vm)?;
        if is_shared {
            break;
        }
    }
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    ensure!(
        is_shared,
        "too many interrupts in each of {ROUNDS_MAX} rounds"
    );
    Ok(())
}

/// Whether so many requests shared an interrupt as they should. A busy machine may have the backend
/// complete requests one by one.
fn shared(context: &Context, vm: &mut Vm) -> Result<bool> {
    let before = interrupts(vm)?;
    let (requests_before, exits_before) = figures(context, vm.name())?;
    let block = DEPTH * PAGE;
    vm.sh(&format!(
        "dd if=/dev/vda of=/dev/null bs={block} count={READS} iflag=direct"
    ))?;
    let (requests, exits) = figures(context, vm.name())?;
    let (requests, exits) = (requests - requests_before, exits - exits_before);
    let interrupts = interrupts(vm)? - before;
    println!(
        "SEEN depth={DEPTH} requests={requests} interrupts={interrupts} exits={exits} \
         exits_per_request={:.2}",
        exits as f64 / requests as f64
    );
    ensure!(requests >= READS * DEPTH, "{requests} requests");
    ensure!(interrupts > 0, "no interrupt");
    let least = match context.machine() {
        Machine::Aia => REQUESTS_FOR_A_DIRECT_INTERRUPT,
        _ => REQUESTS_FOR_AN_INTERRUPT,
    };
    Ok(interrupts * least <= requests)
}

/// How many interrupts of virtio devices the guest has counted.
fn interrupts(vm: &mut Vm) -> Result<u64> {
    let lines = vm.sh("grep virtio /proc/interrupts")?;
    let counts = lines.lines().flat_map(|line| {
        // Behind the number of the interrupt, in front of which may be a prompt.
        let (_, counts) = line.split_once(':').unwrap_or_default();
        let words = counts.split_whitespace();
        words.map_while(|word| word.parse::<u64>().ok())
    });
    Ok(counts.sum())
}

fn wakes_none(context: &Context) -> Result<()> {
    let mut vm = start(context)?;
    let vmm = inspect::process(context, vm.name(), "vmm")?;
    let mut least = u64::MAX;
    // A thread that requests wake is woken in every round. What else wakes one, once a second, counts for
    // more the slower the host is.
    for _ in 0..COUNTS_MAX {
        least = least.min(round(context, &mut vm, vmm)?);
        if least <= SWITCHES_MAX {
            break;
        }
    }
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    ensure!(least <= SWITCHES_MAX, "{least} switches");
    Ok(())
}

/// How often threads of the vmm other than vCPUs are switched to or from while the guest reads.
fn round(context: &Context, vm: &mut Vm, vmm: Pid) -> Result<u64> {
    // What is said on the console wakes the vmm: nothing is said between both counts of switches.
    let (block, reads) = (DEPTH * PAGE, REQUESTS.div_ceil(DEPTH));
    vm.type_line(&format!(
        "sleep 3; dd if=/dev/vda of=/dev/null bs={block} count={reads} iflag=direct 2> /dev/null; \
         sleep 8; echo o''ver"
    ))?;
    let (requests_before, exits_before) = figures(context, vm.name())?;
    std::thread::sleep(SILENCE);
    let (before, begun) = (switches(vmm)?, Instant::now());
    let (requests, exits) = loop {
        // Figures are read from memory that the vmm and the backend write: neither is woken.
        let (requests, exits) = figures(context, vm.name())?;
        if requests >= requests_before + REQUESTS {
            break (requests - requests_before, exits - exits_before);
        }
        ensure!(begun.elapsed() < PATIENCE, "{requests} requests");
        std::thread::sleep(REST);
    };
    let switched = switches(vmm)? - before;
    println!(
        "SEEN wakeups requests={requests} switches={switched} exits={exits} exits_per_request={:.2}",
        exits as f64 / requests as f64
    );
    vm.wait_for("over", PATIENCE)?;
    Ok(switched)
}

/// Requests of the disk, and exits of the vCPUs to the vmm, since the start.
fn figures(context: &Context, name: &str) -> Result<(u64, u64)> {
    let stats = inspect::quietly(context, &["stats", name, "--json"])?;
    let stats: Value = serde_json::from_str(&stats)?;
    let requests = stats["devices"][0]["total"]["requests"].as_u64();
    let exits = ["pio", "mmio"].map(|kind| stats["exits"][kind].as_u64());
    let exits: Option<u64> = exits.into_iter().sum();
    Ok((requests.context("no requests")?, exits.context("no exits")?))
}

/// How often threads of a process other than vCPUs have been switched to or from.
fn switches(process: Pid) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("vcpu") {
            continue;
        }
        let status = fs::read_to_string(task.join("status"))?;
        let counts = status
            .lines()
            .filter(|line| line.contains("ctxt_switches:"));
        for line in counts {
            let count = line.split_whitespace().last().context("no count")?;
            sum += count.parse::<u64>()?;
        }
    }
    Ok(sum)
}
