// SPDX-License-Identifier: Apache-2.0
//! What a hart can do, as KVM tells it: never from /proc/cpuinfo, which tells what the host can.

use kvm_ioctls::VcpuFd;

use super::register::{self, isa_extension};
use crate::kvm::{KvmError, failed};

/// The single letters, in the order of an ISA string (RISC-V unprivileged ISA §27.11).
const LETTERS: &str = "imafdqcbvh";
/// The extensions of more than one letter, each at its number (arch/riscv/include/uapi/asm/kvm.h, enum
/// `KVM_RISCV_ISA_EXT_ID`). Single letters are in the register of letters.
const EXTENSIONS: [&str; 71] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "svpbmt",
    "sstc",
    "svinval",
    "zihintpause",
    "zicbom",
    "zicboz",
    "zbb",
    "ssaia",
    "",
    "svnapot",
    "zba",
    "zbs",
    "zicntr",
    "zicsr",
    "zifencei",
    "zihpm",
    "smstateen",
    "zicond",
    "zbc",
    "zbkb",
    "zbkc",
    "zbkx",
    "zknd",
    "zkne",
    "zknh",
    "zkr",
    "zksed",
    "zksh",
    "zkt",
    "zvbb",
    "zvbc",
    "zvkb",
    "zvkg",
    "zvkned",
    "zvknha",
    "zvknhb",
    "zvksed",
    "zvksh",
    "zvkt",
    "zfh",
    "zfhmin",
    "zihintntl",
    "zvfh",
    "zvfhmin",
    "zfa",
    "ztso",
    "zacas",
    "sscofpmf",
    "zimop",
    "zca",
    "zcb",
    "zcd",
    "zcf",
    "zcmop",
    "zawrs",
    "smnpm",
    "ssnpm",
    "svade",
    "svadu",
    "svvptc",
    "zabha",
    "ziccrse",
    "zaamo",
    "zalrsc",
];
/// The number of Ssaia, which a machine without the advanced interrupt architecture does not tell of.
pub(super) const SSAIA: u64 = 14;
/// Zkr's seed is not virtualised: KVM offers it where the host has it, and does not let it be
/// switched off.
const NOT_TOLD: &str = "zkr";

/// What a hart can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Isa {
    /// Single letters and longer names, in the order of an ISA string.
    pub(super) extensions: Vec<String>,
    /// "riscv,sv39" and so on.
    pub(super) mmu: &'static str,
    pub(super) cbom_block: Option<u32>,
    pub(super) cboz_block: Option<u32>,
    /// The frequency of the timer in Hz.
    pub(super) timebase_hz: u32,
}

impl Isa {
    /// Asks KVM about a hart. Without `has_aia` Ssaia is left out.
    pub(super) fn of(hart: &VcpuFd, has_aia: bool) -> Result<Self, KvmError> {
        let ask = |register| register::get(hart, register);
        let letters = ask(register::ISA).map_err(failed("ask what a hart can do"))?;
        let is_on = |number: u64| ask(isa_extension(number)).is_ok_and(|on| on != 0);
        let extensions = extensions(letters, is_on, has_aia);
        let block = |name: &str, register: u64| {
            let told = extensions.iter().any(|extension| extension == name);
            told.then(|| ask(register).ok().and_then(|len| u32::try_from(len).ok()))
                .flatten()
        };
        let frequency = ask(register::TIMER_FREQUENCY).map_err(failed("ask for the timer"))?;
        Ok(Self {
            cbom_block: block("zicbom", register::CBOM_BLOCK),
            cboz_block: block("zicboz", register::CBOZ_BLOCK),
            mmu: match ask(register::SATP_MODE) {
                Ok(10) => "riscv,sv57",
                Ok(9) => "riscv,sv48",
                // Older hosts do not tell.
                _ => "riscv,sv39",
            },
            timebase_hz: u32::try_from(frequency).unwrap_or(u32::MAX),
            extensions,
        })
    }

    /// The ISA string.
    pub(super) fn string(&self) -> String {
        let mut text = String::from("rv64");
        for name in &self.extensions {
            if name.len() > 1 {
                text.push('_');
            }
            text.push_str(name);
        }
        text
    }
}

fn extensions(letters: u64, is_on: impl Fn(u64) -> bool, has_aia: bool) -> Vec<String> {
    let bit = |letter: char| letters >> (u32::from(letter) - u32::from('a')) & 1;
    // A guest has no hypervisor extension of its own.
    let single = LETTERS
        .chars()
        .filter(|&letter| letter != 'h' && bit(letter) != 0);
    let numbered = (0..).zip(EXTENSIONS);
    let told = numbered.filter(|(number, name)| {
        let possible = !name.is_empty() && *name != NOT_TOLD;
        possible && (has_aia || *number != SSAIA) && is_on(*number)
    });
    let long = told.map(|(_, name)| name.to_owned());
    single.map(String::from).chain(long).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isa_string_has_letters_in_order_and_then_names() {
        let letters = "acdfimh"
            .chars()
            .map(|c| 1_u64 << (c as u32 - 'a' as u32))
            .sum();
        let on = |number| [8, 11, SSAIA, 32].contains(&number);
        let isa = |has_aia| Isa {
            extensions: extensions(letters, on, has_aia),
            mmu: "riscv,sv39",
            cbom_block: None,
            cboz_block: None,
            timebase_hz: 1,
        };
        assert_eq!(isa(true).string(), "rv64imafdc_sstc_zicbom_ssaia");
        assert_eq!(isa(false).string(), "rv64imafdc_sstc_zicbom");
    }

    #[test]
    fn extensions_have_the_kernels_numbers() {
        use kvm_bindings::*;
        for (name, number) in [
            ("ssaia", KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_SSAIA),
            ("zkr", KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZKR),
            ("ztso", KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZTSO),
            ("zalrsc", KVM_RISCV_ISA_EXT_ID_KVM_RISCV_ISA_EXT_ZALRSC),
        ] {
            assert_eq!(EXTENSIONS[number as usize], name);
        }
    }
}
