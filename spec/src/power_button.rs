// SPDX-License-Identifier: Apache-2.0
//! The power button of a machine: by which a guest is asked to power off.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SpecError;

/// The power button of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PowerButton {
    /// `acpi` on x86_64, `virtio` elsewhere.
    #[default]
    Auto,
    /// x86_64: a button that ACPI describes.
    Acpi,
    /// aarch64: a key at a GPIO controller, for kernels with the driver gpio-keys.
    Gpio,
    /// A virtio keyboard with one key, served by a process of its own.
    Virtio,
    /// No button: only `stop --force` ends the VM, or the guest itself.
    None,
}

impl PowerButton {
    /// Those that machines of an architecture can have, the default first.
    fn of(arch: &str) -> &'static [Self] {
        match arch {
            "x86_64" => &[Self::Acpi, Self::Virtio, Self::None],
            "aarch64" => &[Self::Virtio, Self::Gpio, Self::None],
            _ => &[Self::Virtio, Self::None],
        }
    }

    /// The button of a machine of an architecture (as in [`std::env::consts::ARCH`]): never `Auto`.
    /// Refuses what its machines cannot have.
    pub(crate) fn check(self, arch: &str) -> Result<Self, SpecError> {
        let possible = Self::of(arch);
        if self == Self::Auto {
            return Ok(possible[0]);
        }
        if possible.contains(&self) {
            return Ok(self);
        }
        let names: Vec<_> = possible.iter().map(Self::to_string).collect();
        let names = names.join(" or ");
        let reason = format!("machines of {arch} cannot have it: it must be auto or {names}");
        Err(SpecError::new("power-button", self, reason))
    }
}

impl FromStr for PowerButton {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "acpi" => Ok(Self::Acpi),
            "gpio" => Ok(Self::Gpio),
            "virtio" => Ok(Self::Virtio),
            "none" => Ok(Self::None),
            _ => Err("expected auto, acpi, gpio, virtio or none".into()),
        }
    }
}

impl fmt::Display for PowerButton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Acpi => "acpi",
            Self::Gpio => "gpio",
            Self::Virtio => "virtio",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_what_stock_kernels_of_the_architecture_hear() {
        for (arch, button) in [
            ("x86_64", PowerButton::Acpi),
            ("aarch64", PowerButton::Virtio),
            ("riscv64", PowerButton::Virtio),
        ] {
            assert_eq!(PowerButton::Auto.check(arch), Ok(button));
            for any in [PowerButton::Virtio, PowerButton::None] {
                assert_eq!(any.check(arch), Ok(any));
            }
        }
    }

    #[test]
    fn button_of_another_architecture_is_refused_with_what_is_possible() {
        assert!(PowerButton::Gpio.check("aarch64").is_ok());
        for arch in ["x86_64", "riscv64"] {
            let error = PowerButton::Gpio.check(arch).unwrap_err().to_string();
            assert!(error.contains("power-button \"gpio\""), "{error}");
            assert!(error.contains("virtio or none"), "{error}");
        }
        assert!(PowerButton::Acpi.check("aarch64").is_err());
    }

    #[test]
    fn name_is_read_as_it_is_written() {
        for name in ["auto", "acpi", "gpio", "virtio", "none"] {
            assert_eq!(name.parse::<PowerButton>().unwrap().to_string(), name);
        }
        assert!("sleep".parse::<PowerButton>().is_err());
    }
}
