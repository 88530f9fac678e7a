// SPDX-License-Identifier: Apache-2.0
//! `bulkhead stop`: says at once by which button the guest was asked to power off, and why it does
//! not notice, if that is known.

use std::path::Path;

use spec::api::{Stop, Stopping};
use spec::{PowerButton, VmName};

use crate::client;
use crate::error::Error;
use crate::output;

/// Asks the guest to power off, or ends the VM. With force or a timeout, returns when the name is
/// free again.
pub(crate) fn stop(base: &Path, vm: &VmName, stop: Stop, json: bool) -> Result<(), Error> {
    client::stop(base, vm, stop, |stopping| {
        if json {
            return output::print_json(stopping);
        }
        if let Some(line) = stopping.button.and_then(asked) {
            output::print(line)?;
        }
        if let Some(warning) = warning(vm, stopping) {
            output::complain_line(&warning);
        }
        Ok(())
    })
}

fn asked(button: PowerButton) -> Option<&'static str> {
    match button {
        PowerButton::Acpi => Some("asked the guest to power off by its ACPI power button\n"),
        PowerButton::Gpio => Some("asked the guest to power off by its power button (gpio-keys)\n"),
        PowerButton::Virtio => {
            Some("asked the guest to power off by its power button (virtio-input)\n")
        }
        PowerButton::Auto | PowerButton::None => None,
    }
}

fn warning(vm: &VmName, stopping: &Stopping) -> Option<String> {
    let warning = stopping.warning.as_ref()?;
    Some(format!("VM {:?}: {warning}", vm.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_button_is_called_by_its_name() {
        for (button, name) in [
            (PowerButton::Acpi, "ACPI"),
            (PowerButton::Gpio, "gpio-keys"),
            (PowerButton::Virtio, "virtio-input"),
        ] {
            assert!(asked(button).is_some_and(|line| line.contains(name)));
        }
        assert_eq!(asked(PowerButton::None), None);
    }
}
