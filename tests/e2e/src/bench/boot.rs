// SPDX-License-Identifier: Apache-2.0
//! From exec to the guest's init: Bulkhead and the smallest machine that QEMU has for the architecture,
//! the same kernel, initrd and command line, one after the other in turns so that what else the machine
//! does hits both alike.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{footprint, median, quartiles};
use crate::arch::RIVAL;
use crate::context::Context;
use crate::no_os_kernel::NoOsKernel;
use crate::transcript::Transcript;
use crate::vm::{Format, GuestDoes, PATIENCE, Stock};

const RUNS: usize = 9;
const MEM_MIB: u64 = 256;
const MARKER: &str = "GUEST uptime=";

/// The kernel that both boot.
const KERNEL: Stock = Stock {
    series: RIVAL.kernel,
    format: match RIVAL.is_elf {
        true => Format::Elf,
        false => Format::Shipped,
    },
};

/// One boot of a stock kernel.
struct Boot {
    wall_ms: f64,
    first_byte_ms: f64,
    uptime_s: f64,
}

/// The nine runs of each, a table, the medians and quartiles.
pub(super) fn run(context: &Context) -> Result<String> {
    let (ours, theirs) = stock_kernel(context)?;
    let (lower, our_upper) = quartiles(ours.iter().map(|boot| boot.wall_ms));
    let (their_lower, upper) = quartiles(theirs.iter().map(|boot| boot.wall_ms));
    println!(
        "quartiles, ms: bulkhead {lower:.0} to {our_upper:.0}, qemu {their_lower:.0} to {upper:.0}"
    );
    let first_byte = speaking_at_once(context)?;
    println!("first byte of a guest that speaks at once, medians:");
    println!("  bulkhead {:.0} ms", first_byte.ours_ms);
    if let Some(theirs_ms) = first_byte.theirs_ms {
        println!("  qemu {theirs_ms:.0} ms");
    }
    let rss_kib = resident_kib(context)?;
    let ratio = medians(&ours).wall_ms / medians(&theirs).wall_ms;
    Ok(format!(
        "boot_ratio_vs_qemu={ratio:.2} boot_upper_quartile_ms={our_upper:.0} \
         qemu_lower_quartile_ms={their_lower:.0} first_byte_ms={:.0} vmm_rss_kib={rss_kib}",
        first_byte.ours_ms
    ))
}

/// Both with the stock kernel.
fn stock_kernel(context: &Context) -> Result<(Vec<Boot>, Vec<Boot>)> {
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
    line(" med", "bulkhead", &medians(&ours));
    line(" med", "qemu", &medians(&theirs));
    Ok((ours, theirs))
}

/// Medians of the time to the first byte.
struct FirstByte {
    ours_ms: f64,
    /// None where QEMU's serial port is another.
    theirs_ms: Option<f64>,
}

/// The time to the first byte of a kernel that has nothing else to do: what the VMM itself takes. A
/// stock kernel told to be quiet says nothing for most of its boot.
fn speaking_at_once(context: &Context) -> Result<FirstByte> {
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
        let their_ms = match RIVAL.is_like_ours {
            true => Some(first_byte_of_qemu(&file)?),
            false => None,
        };
        if run > 0 {
            ours.push(our_ms);
            theirs.extend(their_ms);
        }
    }
    Ok(FirstByte {
        ours_ms: median(ours),
        theirs_ms: RIVAL.is_like_ours.then(|| median(theirs)),
    })
}

fn first_byte_of_qemu(kernel: &Path) -> Result<f64> {
    let (mut child, console, started) = start_qemu(machine().arg("-kernel").arg(kernel))?;
    console.wait_for("!", 0, PATIENCE)?;
    let first_ms = started.elapsed().as_secs_f64() * 1e3;
    child.kill()?;
    child.wait()?;
    Ok(first_ms)
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
    let mut command = machine();
    let initrd = format!("initrd-{}.cpio", RIVAL.kernel);
    command.arg("-kernel").arg(context.asset(&KERNEL.file())?);
    command.arg("-initrd").arg(context.asset(&initrd)?);
    let cmdline = GuestDoes("bench").to_string();
    command.args(["-append", &cmdline.replace("ttyS0", RIVAL.console)]);
    let (mut child, console, started) = start_qemu(&mut command)?;
    let boot = measure(&console, started);
    // It has said what it had to; how it ends is not measured.
    child.kill()?;
    child.wait()?;
    boot
}

/// QEMU's smallest machine, without a kernel.
fn machine() -> Command {
    let mut command = Command::new(RIVAL.program);
    command.args(RIVAL.machine);
    command.args([
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-nodefaults",
        "-no-user-config",
    ]);
    command.args(["-nographic", "-serial", "stdio", "-no-reboot"]);
    command.args(["-m", &MEM_MIB.to_string(), "-smp", "1"]);
    command
}

fn start_qemu(command: &mut Command) -> Result<(Child, Transcript, Instant)> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", RIVAL.program))?;
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
