// SPDX-License-Identifier: Apache-2.0
//! The machines that cases run on: one for each interrupt controller that a VM can have.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::arch;

/// A machine, by its architecture and what it has for interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// x86_64: local APICs.
    X86,
    /// aarch64: GICv3 with an ITS.
    Gicv3,
    /// aarch64: GICv2 with a v2m frame, under a host with pages of 16 KiB.
    Gicv2,
    /// riscv64: APLIC and IMSICs.
    Aia,
    /// riscv64: a PLIC in the vmm.
    Plic,
}

impl Machine {
    /// All but the first of each architecture, where what does not depend on the interrupt controller
    /// has run already.
    pub const SECOND: &[Self] = &[Self::Gicv2, Self::Plic];
    /// All but x86_64.
    pub const OTHERS: &[Self] = &[Self::Gicv3, Self::Gicv2, Self::Aia, Self::Plic];
    /// All but the one whose interrupt controller is a GICv2.
    pub const BUT_GICV2: &[Self] = &[Self::X86, Self::Gicv3, Self::Aia, Self::Plic];
    /// Those of riscv64.
    pub const RISCV64: &[Self] = &[Self::Aia, Self::Plic];

    /// The first of the architecture that this program is built for.
    #[must_use]
    pub fn own() -> Self {
        arch::MACHINE
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::X86, Self::Gicv3, Self::Gicv2, Self::Aia, Self::Plic];

    /// How it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Gicv3 => "gicv3",
            Self::Gicv2 => "gicv2",
            Self::Aia => "aia",
            Self::Plic => "plic",
        }
    }

    /// Whether its interrupt controller takes messages.
    #[must_use]
    pub fn has_messages(self) -> bool {
        self != Self::Plic
    }
}

impl ValueEnum for Machine {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
