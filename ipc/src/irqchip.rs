// SPDX-License-Identifier: Apache-2.0
//! The interrupt controllers of machines.

use serde::{Deserialize, Serialize};

/// An interrupt controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Irqchip {
    /// x86_64: local APICs and an IOAPIC.
    Ioapic,
    /// aarch64: a GICv3 with an ITS.
    Gicv3,
    /// aarch64: a GICv2.
    Gicv2,
    /// riscv64: the advanced interrupt architecture.
    Aia,
    /// riscv64: a PLIC.
    Plic,
}

impl Irqchip {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ioapic => "ioapic",
            Self::Gicv3 => "gicv3",
            Self::Gicv2 => "gicv2",
            Self::Aia => "aia",
            Self::Plic => "plic",
        }
    }
}
