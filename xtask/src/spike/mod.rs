// SPDX-License-Identifier: Apache-2.0
//! Spike, the reference simulator of RISC-V, as a host: it shares no code with QEMU, so that what works
//! in both depends on the quirks of neither.
//!
//! Spike has neither disk nor network. Its initramfs holds everything: Debian's kernel module for KVM,
//! our programs, and the guest.

mod initramfs;
mod machine;
mod program;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::arch::Arch;
use crate::guests::{self, Kernels};
use crate::scratch::Scratch;
use crate::{compile, progress};

/// The case's name among those of the end-to-end runner.
pub(crate) const CASE: &str = "spike_boots_a_guest_on_the_plic";

/// The series of the kernel, of host and guest.
const SERIES: &str = "6.12";
/// A simulator runs some ten million instructions a second.
const LIMIT: Duration = Duration::from_secs(900);
/// The hosts, one run after the other. The first has a source of random bytes, Zkr, which guests see, too;
/// the second has none.
const HOSTS: [Host; 2] = [
    Host {
        harts: 1,
        extension: "_zkr",
    },
    Host {
        harts: 2,
        extension: "",
    },
];

/// What differs between hosts.
#[derive(Debug)]
struct Host {
    harts: u32,
    /// What the processor has besides, as the end of its ISA string.
    extension: &'static str,
}

/// Whether a filter chooses the case.
pub(crate) fn is_chosen(filter: &str) -> bool {
    CASE.contains(filter)
}

/// Boots the host with one processor and with two, and a guest in it with as many. What the host says
/// goes to our output.
pub(crate) fn run() -> Result<()> {
    let binaries = compile::shipped(Arch::Riscv64)?;
    let kernels = Kernels::ready(Arch::Riscv64)?;
    let kernel = kernels.series(SERIES)?;
    let spike = program::ready()?;
    let dir = Scratch::new("spike")?;
    let initrd = guests::initrd(kernel, &kernels)?;
    let archive = initramfs::make(kernel, &kernels.busybox(), &initrd, &binaries)?;
    let path = dir.path().join("initramfs.cpio");
    std::fs::write(&path, archive).context("the initramfs")?;
    for host in &HOSTS {
        progress::say(format!("a Debian host in Spike, harts: {}", host.harts));
        let said = machine::run(&spike, host, &kernel.image(), &path, LIMIT)?;
        check(&said, host.harts)?;
    }
    Ok(())
}

/// Whether the guest came to its init on the interrupt controller that the vmm emulates, used its disk
/// and powered off, and `bulkhead run` said that all was well.
fn check(said: &str, harts: u32) -> Result<()> {
    let cpus = format!("GUEST cpus={harts}");
    for wanted in [
        "HOST irqchip=plic",
        &cpus,
        "GUEST disk=ok",
        "HOST status=0",
        "HOST left=nothing",
    ] {
        ensure!(
            said.lines().any(|line| line.trim_end() == wanted),
            "with harts: {harts}, Spike's console has no line {wanted}"
        );
    }
    let interrupts = said
        .lines()
        .find(|line| line.starts_with("GUEST disk_interrupt="));
    ensure!(
        interrupts.is_some_and(|line| line.contains("SiFive PLIC")),
        "the disk's interrupt is not the PLIC's: {interrupts:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "[    0.000000] Linux\r\nHOST irqchip=plic\r\nGUEST cpus=1\r\n\
        GUEST disk_interrupt= 12: 99 SiFive PLIC 9 Edge virtio0\r\nGUEST disk=ok\r\n\
        HOST status=0\r\nHOST left=nothing\r\n";

    #[test]
    fn console_of_a_guest_that_did_everything_passes() {
        check(SAID, 1).unwrap();
    }

    #[test]
    fn console_without_any_of_its_lines_fails() {
        for (index, missing) in SAID.lines().enumerate().skip(1) {
            let lines = SAID.lines().enumerate();
            let rest: Vec<&str> = lines
                .filter(|(i, _)| *i != index)
                .map(|(_, line)| line)
                .collect();
            assert!(check(&rest.join("\n"), 1).is_err(), "without {missing}");
        }
        assert!(check(SAID, 2).is_err());
    }
}
