// SPDX-License-Identifier: Apache-2.0
//! From exec to the guest's init: Bulkhead and QEMU's microvm, the same kernel, initrd and command
//! line, one after the other in turns so that what else the machine does hits both alike.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{footprint, median};
use crate::context::Context;
use crate::no_os_kernel::NoOsKernel;
use crate::transcript::Transcript;
use crate::vm::{Format, GuestDoes, PATIENCE, Stock};

const RUNS: usize = 5;
const KERNEL: Stock = Stock {
    series: "6.1",
    format: Format::Elf,
};
const MEM_MIB: u64 = 256;
const MARKER: &str = "GUEST uptime=";

/// One boot of a stock kernel.
struct Boot {
    wall_ms: f64,
    first_byte_ms: f64,
    uptime_s: f64,
}

/// The five runs of each, a table, and the medians.
pub(super) fn run(context: &Context) -> Result<String> {
    let (ours, theirs) = stock_kernel(context)?;
    let (first_ours, first_theirs) = speaking_at_once(context)?;
    println!("first byte of a guest that speaks at once, medians:");
    println!("  bulkhead {first_ours:.0} ms, qemu {first_theirs:.0} ms");
    let rss_kib = resident_kib(context)?;
    let ratio = ours.wall_ms / theirs.wall_ms;
    Ok(format!(
        "boot_ratio_vs_qemu_microvm={ratio:.2} first_byte_ms={first_ours:.0} vmm_rss_kib={rss_kib}"
    ))
}

/// Medians of both with the stock kernel.
fn stock_kernel(context: &Context) -> Result<(Boot, Boot)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    println!("run  vmm       wall ms  first byte ms  guest uptime s");
    for run in 0..=RUNS {
        let pair = (bulkhead(context)?, qemu(context)?);
        let label = if run == 0 {
            "warm".to_owned()
        } else {
            format!("{run:>4}")
        };
        line(&label, "bulkhead", &pair.0);
        line(&label, "qemu", &pair.1);
        if run > 0 {
            ours.push(pair.0);
            theirs.push(pair.1);
        }
    }
    let (ours, theirs) = (medians(&ours), medians(&theirs));
    line(" med", "bulkhead", &ours);
    line(" med", "qemu", &theirs);
    Ok((ours, theirs))
}

/// Medians, in ms, of the time to the first byte of a kernel that has nothing else to do: what the VMM
/// itself takes. A stock kernel told to be quiet says nothing for most of its boot.
fn speaking_at_once(context: &Context) -> Result<(f64, f64)> {
    let kernel = NoOsKernel::new().say("!").halt();
    let file = context.no_os_kernel(&kernel)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let mut vm = context
            .vm("bench")
            .boots_no_os(&kernel)
            .mem_mib(MEM_MIB)
            .start()?;
        vm.hush();
        vm.wait_for("!", PATIENCE)?;
        let first = vm.console().first_byte().context("nothing was said")?;
        let our_ms = first.duration_since(vm.started()).as_secs_f64() * 1e3;
        context
            .bulkhead()
            .args(["stop", vm.name(), "--force"])
            .output()?;
        vm.wait_exit(PATIENCE)?;
        let (mut child, console, started) = start_qemu(microvm().arg("-kernel").arg(&file))?;
        console.wait_for("!", 0, PATIENCE)?;
        let their_ms = started.elapsed().as_secs_f64() * 1e3;
        child.kill()?;
        child.wait()?;
        if run > 0 {
            ours.push(our_ms);
            theirs.push(their_ms);
        }
    }
    Ok((median(ours), median(theirs)))
}

fn line(run: &str, vmm: &str, boot: &Boot) {
    let Boot {
        wall_ms,
        first_byte_ms,
        uptime_s,
    } = boot;
    println!("{run}  {vmm:8} {wall_ms:8.0} {first_byte_ms:14.0} {uptime_s:15.2}");
}

fn medians(boots: &[Boot]) -> Boot {
    Boot {
        wall_ms: median(boots.iter().map(|boot| boot.wall_ms)),
        first_byte_ms: median(boots.iter().map(|boot| boot.first_byte_ms)),
        uptime_s: median(boots.iter().map(|boot| boot.uptime_s)),
    }
}

fn bulkhead(context: &Context) -> Result<Boot> {
    let mut vm = context
        .vm("bench")
        .boots(KERNEL, "bench")
        .mem_mib(MEM_MIB)
        .start()?;
    vm.hush();
    let boot = measure(vm.console(), vm.started())?;
    vm.expect_exit(0)?;
    Ok(boot)
}

fn qemu(context: &Context) -> Result<Boot> {
    let mut command = microvm();
    command.arg("-kernel").arg(context.asset("vmlinux-6.1")?);
    command
        .arg("-initrd")
        .arg(context.asset("initrd-6.1.cpio")?);
    command.args(["-append", &GuestDoes("bench").to_string()]);
    let (mut child, console, started) = start_qemu(&mut command)?;
    let boot = measure(&console, started);
    // It has said what it had to; how it ends is not measured.
    child.kill()?;
    child.wait()?;
    boot
}

/// QEMU's smallest machine, without a kernel.
fn microvm() -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-M",
        "microvm,pit=off,pic=off,rtc=on",
        "-accel",
        "kvm",
        "-cpu",
        "host",
    ]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-nographic",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    command.args(["-m", &MEM_MIB.to_string(), "-smp", "1"]);
    command
}

fn start_qemu(command: &mut Command) -> Result<(Child, Transcript, Instant)> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let console = Transcript::of(child.stdout.take().context("no standard output")?);
    Ok((child, console, started))
}

fn measure(console: &Transcript, started: Instant) -> Result<Boot> {
    let at = console.wait_for(MARKER, 0, PATIENCE)?;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    console.wait_for("\n", at, PATIENCE)?;
    let text = console.text();
    let uptime = text
        .split(MARKER)
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let first = console.first_byte().context("nothing was said")?;
    let first_byte_ms = first.duration_since(started).as_secs_f64() * 1e3;
    ensure!(
        first_byte_ms <= wall_ms,
        "the first byte came after the marker"
    );
    Ok(Boot {
        wall_ms,
        first_byte_ms,
        uptime_s: uptime.unwrap_or_default().trim().parse()?,
    })
}

/// Resident memory of the vmm without guest memory, while a booted guest waits.
fn resident_kib(context: &Context) -> Result<u64> {
    let mut vm = context
        .vm("bench")
        .boots(KERNEL, "ask")
        .mem_mib(MEM_MIB)
        .start()?;
    vm.hush();
    vm.wait_for("GUEST ready", PATIENCE)?;
    let resident = footprint::resident_kib();
    vm.type_line("poweroff")?;
    vm.expect_exit(0)?;
    resident
}
