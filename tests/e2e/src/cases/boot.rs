// SPDX-License-Identifier: Apache-2.0
//! Stock kernels boot to user space: kernels × CPU counts × memory sizes.

use anyhow::{Result, ensure};

use super::bad_input::{ERROR, complains};
use super::{COUNTS, Case};
use crate::context::Context;
use crate::machine::Machine;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{Format, Stock};

const SERIES: [&str; 2] = ["6.1", "6.12"];
const CPUS: [u32; 3] = [1, 2, 4];
const MEM_MIB: [u64; 3] = [128, 512, 4608];
/// Arm's, with pages of 16 KiB.
const LARGE_PAGES: &str = "6.12-16k";

/// What the other machines have no ELF file of.
const NO_ELF: &str = "kernels of other architectures are no ELF files, and have one entry";
const NO_6_1: &str = "Debian has no kernel 6.1 for riscv64";
const DIAGONAL: &str = "of the combinations, a diagonal is run there";
const ONE: &str = "of the combinations, one is run there";

/// Every combination as Debian ships the kernel; as ELF, which differs only up to the entry point, a
/// diagonal.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for series in SERIES {
        for (row, cpus) in CPUS.into_iter().enumerate() {
            for (column, mem_mib) in MEM_MIB.into_iter().enumerate() {
                let mut case = case(series, Format::Shipped, cpus, mem_mib);
                if series == "6.1" {
                    case = case.not_on(Machine::RISCV64, NO_6_1);
                }
                if row != column || (series == "6.1" && row != 1) {
                    case = case.only_on_x86(DIAGONAL);
                }
                if row != 1 {
                    case = case.not_on(Machine::SECOND, ONE);
                }
                cases.push(case);
            }
        }
        for (cpus, mem_mib) in CPUS.into_iter().zip(MEM_MIB) {
            cases.push(case(series, Format::Elf, cpus, mem_mib).only_on_x86(NO_ELF));
        }
    }
    let large = case(LARGE_PAGES, Format::Shipped, 2, 512);
    let large = large.not_on(Machine::RISCV64, "pages of riscv64 are of 4 KiB");
    let large = large.not_on(&[Machine::X86], "pages of x86_64 are of 4 KiB");
    cases.extend([
        large.not_on(&[Machine::Gicv3], "its processor has no pages of 16 KiB"),
        Case::native(
            "boot_with_more_cpus_than_the_interrupt_controller_takes_is_refused",
            crowd,
        )
        .not_on(
            Machine::BUT_GICV2,
            "its interrupt controller takes as many processors as KVM has",
        ),
        Case::guest("boot_a_hundred_times_always_reaches_init", hundred_boots)
            .soak(std::time::Duration::from_secs(1800))
            .only_on_x86(COUNTS),
    ]);
    cases
}

/// Eight processors are the most for a GICv2.
fn crowd(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().power_off();
    let mut command = context.vm("crowd").boots_no_os(&kernel).cpus(9).command()?;
    complains(&mut command, ERROR, &["cpus", "9", "at most 8"])
}

fn case(series: &'static str, format: Format, cpus: u32, mem_mib: u64) -> Case {
    let kernel = Stock { series, format };
    let series = series.replace(['.', '-'], "_");
    let format = match format {
        Format::Shipped => "shipped",
        Format::Elf => "elf",
    };
    let name = format!("boot_{series}_{format}_with_{cpus}_cpus_and_{mem_mib}_mib_reaches_init");
    Case::guest(name, move |context| boots(context, kernel, cpus, mem_mib))
}

fn boots(context: &Context, kernel: Stock, cpus: u32, mem_mib: u64) -> Result<()> {
    let builder = context
        .vm("boot")
        .boots(kernel, "poweroff")
        .cpus(cpus)
        .mem_mib(mem_mib);
    let mut vm = builder.start()?;

    let uname = vm.guest_value("uname")?;
    let seen_cpus = vm.guest_value("cpus")?;
    let seen_kib: u64 = vm.guest_value("mem_kib")?.parse()?;
    vm.expect_exit(0)?;

    let version = kernel.series.split('-').next().unwrap_or_default();
    ensure!(
        uname.contains(&format!(" {version}.")),
        "another kernel: {uname}"
    );
    ensure!(
        seen_cpus == cpus.to_string(),
        "the guest sees {seen_cpus} CPUs"
    );
    // The kernel keeps its own image, page structures and the like to itself.
    let least_kib = (mem_mib * 1024 * 9 / 10).saturating_sub(64 * 1024);
    let plausible = least_kib..mem_mib * 1024;
    ensure!(
        plausible.contains(&seen_kib),
        "{seen_kib} KiB is not in {plausible:?}"
    );
    Ok(())
}

fn hundred_boots(context: &Context) -> Result<()> {
    (0..100).try_for_each(|_| boots(context, Stock::DEFAULT, 2, 256))
}
