// SPDX-License-Identifier: Apache-2.0
//! The interrupt controller of a machine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SpecError;

/// The interrupt controller of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Irqchip {
    /// The best that the host has.
    #[default]
    Auto,
    /// aarch64: a GICv3 with an ITS.
    Gicv3,
    /// aarch64: a GICv2, of at most 8 vCPUs.
    Gicv2,
    /// riscv64: the advanced interrupt architecture.
    Aia,
    /// riscv64: a PLIC.
    Plic,
}

impl Irqchip {
    /// Those that machines of an architecture can have.
    fn of(arch: &str) -> &'static [Self] {
        match arch {
            "aarch64" => &[Self::Auto, Self::Gicv3, Self::Gicv2],
            "riscv64" => &[Self::Auto, Self::Aia, Self::Plic],
            _ => &[Self::Auto],
        }
    }

    /// Refuses what machines of an architecture (as in [`std::env::consts::ARCH`]) cannot have.
    pub(crate) fn check(self, arch: &str) -> Result<Self, SpecError> {
        let possible = Self::of(arch);
        if possible.contains(&self) {
            return Ok(self);
        }
        let names: Vec<_> = possible.iter().map(Self::to_string).collect();
        let names = names.join(" or ");
        let reason = format!("machines of {arch} cannot have it: it must be {names}");
        Err(SpecError::new("irqchip", self, reason))
    }
}

impl FromStr for Irqchip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "gicv3" => Ok(Self::Gicv3),
            "gicv2" => Ok(Self::Gicv2),
            "aia" => Ok(Self::Aia),
            "plic" => Ok(Self::Plic),
            _ => Err("expected auto, gicv3, gicv2, aia or plic".into()),
        }
    }
}

impl fmt::Display for Irqchip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Gicv3 => "gicv3",
            Self::Gicv2 => "gicv2",
            Self::Aia => "aia",
            Self::Plic => "plic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_of_another_architecture_is_refused_with_what_is_possible() {
        for arch in ["x86_64", "aarch64", "riscv64"] {
            assert_eq!(Irqchip::Auto.check(arch), Ok(Irqchip::Auto));
        }
        assert!(Irqchip::Gicv2.check("aarch64").is_ok() && Irqchip::Plic.check("riscv64").is_ok());
        let error = Irqchip::Gicv3.check("riscv64").unwrap_err().to_string();
        assert!(
            error.contains("irqchip") && error.contains("auto or aia or plic"),
            "{error}"
        );
        assert!(Irqchip::Aia.check("x86_64").is_err());
    }

    #[test]
    fn name_is_read_as_it_is_written() {
        for name in ["auto", "gicv3", "gicv2", "aia", "plic"] {
            assert_eq!(name.parse::<Irqchip>().unwrap().to_string(), name);
        }
        assert!("gic".parse::<Irqchip>().is_err());
    }
}
