// SPDX-License-Identifier: Apache-2.0
//! Stock kernels boot to user space: kernels × CPU counts × memory sizes.

use anyhow::{Result, ensure};

use super::Case;
use crate::context::Context;
use crate::vm::{Format, Stock};

const SERIES: [&str; 2] = ["6.1", "6.12"];
const CPUS: [u32; 3] = [1, 2, 4];
const MEM_MIB: [u64; 3] = [128, 512, 4608];

/// Every combination as bzImage; as ELF, which differs only up to the entry point, a diagonal.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for series in SERIES {
        for cpus in CPUS {
            for mem_mib in MEM_MIB {
                cases.push(case(
                    Stock {
                        series,
                        format: Format::BzImage,
                    },
                    cpus,
                    mem_mib,
                ));
            }
        }
        for (cpus, mem_mib) in CPUS.into_iter().zip(MEM_MIB) {
            cases.push(case(
                Stock {
                    series,
                    format: Format::Elf,
                },
                cpus,
                mem_mib,
            ));
        }
    }
    cases.push(
        Case::guest("boot_a_hundred_times_always_reaches_init", hundred_boots)
            .soak(std::time::Duration::from_secs(1800)),
    );
    cases
}

fn case(kernel: Stock, cpus: u32, mem_mib: u64) -> Case {
    let series = kernel.series.replace('.', "_");
    let format = match kernel.format {
        Format::BzImage => "bzimage",
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

    ensure!(
        uname.contains(&format!(" {}.", kernel.series)),
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
