// SPDX-License-Identifier: Apache-2.0
//! Models of a processor: the guest finds the features of its level and of the flags, after a reboot as
//! well, and what the host lacks is refused by name.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use super::bad_input::{ERROR, complains};
use crate::context::{Context, Skip};
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Vm};

const X86: &str = "models of a processor are of x86_64";

pub(super) fn cases() -> Vec<Case> {
    vec![
        // Where a guest's CPUID is trapped: a KVM without hardware virtualisation may leave it alone.
        Case::guest("cpu_model_without_a_feature_has_all_others", switched).only_on_x86(X86),
        Case::guest("cpu_model_of_a_level_has_no_more_than_that", level).only_on_x86(X86),
        Case::native("cpu_model_that_the_host_lacks_is_refused", lacking).only_on_x86(X86),
    ]
}

/// What a leaf of CPUID is in the guest: EAX, EBX, ECX and EDX.
fn registers(line: &str) -> Result<[u32; 4]> {
    let letters = line.trim().as_bytes();
    ensure!(letters.len() == 32, "the guest says {line:?}");
    let mut registers = [0_u32; 4];
    for (register, letters) in registers.iter_mut().zip(letters.chunks(8)) {
        for letter in letters {
            ensure!((b'a'..=b'p').contains(letter), "the guest says {line:?}");
            *register = *register << 4 | u32::from(letter - b'a');
        }
    }
    Ok(registers)
}

/// A guest that says what leaves 1 and 7 of CPUID are, as often as it is reset.
fn kernel() -> NoOsKernel {
    let kernel = NoOsKernel::new().say("one ").say_cpuid(1, 0);
    kernel.say("seven ").say_cpuid(7, 0).echo_until_q().reset()
}

/// ECX of leaf 1 and EBX of leaf 7, as the guest says.
fn said(vm: &mut Vm) -> Result<(u32, u32)> {
    vm.wait_for("one ", PATIENCE)?;
    let ecx = registers(&vm.line()?)?[2];
    vm.wait_for("seven ", PATIENCE)?;
    let ebx = registers(&vm.line()?)?[1];
    println!("SEEN leaf 1 ECX {ecx:#x}, leaf 7 EBX {ebx:#x}");
    Ok((ecx, ebx))
}

/// What a guest with this model says, which must be the same after a reboot.
fn guest_with(context: &Context, model: &str) -> Result<(u32, u32)> {
    let builder = context.vm("model").boots_no_os(&kernel());
    let mut vm = builder.arg("--cpu", model).start()?;
    let first = said(&mut vm)?;
    vm.type_text("q")?;
    let second = said(&mut vm)?;
    let shown = context.run_ok(&["inspect", vm.name()])?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)?;
    ensure!(first == second, "it is {second:x?} after a reboot");
    ensure!(shown.contains(model), "inspect: {shown}");
    Ok(first)
}

fn switched(context: &Context) -> Result<()> {
    const FEATURES: [(&str, u32); 4] = [
        ("clwb", 1 << 24),
        ("clflushopt", 1 << 23),
        ("erms", 1 << 9),
        ("smep", 1 << 7),
    ];
    let (ecx, ebx) = guest_with(context, "host")?;
    let found = FEATURES.iter().find(|(_, bit)| ebx & bit != 0);
    let Some((name, bit)) = found else {
        return Err(Skip("this host's KVM has none of four features".into()).into());
    };
    let with = guest_with(context, &format!("host,+{name}"))?;
    ensure!(with == (ecx, ebx), "with {name} it is {with:x?}");
    let without = guest_with(context, &format!("host,-{name}"))?;
    ensure!(
        without == (ecx, ebx & !bit),
        "without {name} it is {without:x?}"
    );
    Ok(())
}

fn level(context: &Context) -> Result<()> {
    const LEVEL_2: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20;
    const POPCNT: u32 = 1 << 23;
    const AVX: u32 = 1 << 28;
    const RDRAND: u32 = 1 << 30;
    let (host, _) = guest_with(context, "host")?;
    if host & (LEVEL_2 | POPCNT) != LEVEL_2 | POPCNT {
        return Err(Skip("this host's KVM has less than x86-64-v2".into()).into());
    }
    let (ecx, ebx) = guest_with(context, "x86-64-v2,-popcnt")?;
    ensure!(ecx & LEVEL_2 == LEVEL_2, "ECX is {ecx:#x}");
    ensure!(ecx & (AVX | POPCNT | RDRAND) == 0, "ECX is {ecx:#x}");
    ensure!(ebx == 0, "EBX of leaf 7 is {ebx:#x}");
    Ok(())
}

fn lacking(context: &Context) -> Result<()> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let flags = info.lines().find(|line| line.starts_with("flags"));
    let flags: Vec<_> = flags.context("no flags")?.split_whitespace().collect();
    // No processor has both.
    let mut rare = ["xop", "avx512_4fmaps"].into_iter();
    let lacks = rare
        .find(|name| !flags.contains(name))
        .context("it has both")?;
    let model = match lacks {
        "xop" => "x86-64-v2,+xsave,+avx,+xop",
        _ => "host,+avx512_4fmaps",
    };
    let builder = context.vm("bad").boots_no_os(&NoOsKernel::new().spin());
    let mut command = builder.arg("--cpu", model).command()?;
    complains(
        &mut command,
        ERROR,
        &["cpu \"", model, "this host lacks", lacks],
    )
}
