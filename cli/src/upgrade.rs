// SPDX-License-Identifier: Apache-2.0
//! `bulkhead upgrade`: replaces the programs behind devices, and the vmm, while the guest uses them. Unless
//! another is named, the next program is the one that is installed beside this one.

use std::path::{Path, PathBuf};

use serde::Serialize;
use spec::VmName;
use spec::api::ProcessInfo;

use crate::client::{self, ClientError};
use crate::error::Error;
use crate::jailer;
use crate::output;

/// The kinds of devices, as roles name them: `blk` is served by `blk-backend`.
const KINDS: [&str; 3] = ["blk", "net", "input"];
/// The process that runs the guest, as roles and clients name it.
const VMM: &str = "vmm";

/// Whose program is replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Devices<'a> {
    /// That of all devices with a backend of the VM's own; and the vmm's, where another one can take the
    /// guest up.
    All,
    /// That of one.
    One(&'a str),
}

/// What was upgraded.
#[derive(Debug, Serialize)]
struct Upgraded<'a> {
    vm: &'a VmName,
    verb: &'static str,
    devices: Vec<String>,
}

/// Upgrades one device after the other. At the first that cannot be upgraded it ends: the old program
/// goes on there, and those before it have their new ones.
pub(crate) fn upgrade(
    base: &Path,
    vm: &VmName,
    devices: Devices<'_>,
    binary: Option<&Path>,
    json: bool,
) -> Result<(), Error> {
    let todo = match (devices, binary) {
        (Devices::One(device), Some(binary)) => vec![(device.to_owned(), binary.to_path_buf())],
        (devices, _) => {
            let info = client::info(base, vm)?;
            installed(vm, &info.processes, info.vmm_replaceable, devices)?
        }
    };
    let mut done = Vec::new();
    for (device, program) in todo {
        client::upgrade(base, vm, &device, &program)?;
        if !json && matches!(devices, Devices::All) {
            output::print(&format!("{device}\n"))?;
        }
        done.push(device);
    }
    match json {
        true => output::print_json(&Upgraded {
            vm,
            verb: "upgrade",
            devices: done,
        }),
        false => Ok(()),
    }
}

/// The devices with a process of their own, each with the installed program of its kind; last the vmm, so
/// that the next one begins with the next backends.
fn installed(
    vm: &VmName,
    processes: &[ProcessInfo],
    vmm_replaceable: bool,
    devices: Devices<'_>,
) -> Result<Vec<(String, PathBuf)>, ClientError> {
    let roles = processes
        .iter()
        .filter_map(|process| device_of(&process.role));
    let mut found: Vec<_> = roles
        .filter(|(_, device)| match devices {
            Devices::All => true,
            Devices::One(wanted) => *device == wanted,
        })
        .map(|(kind, device)| {
            (
                device.to_owned(),
                jailer::beside(&format!("{kind}-backend")),
            )
        })
        .collect();
    let is_vmm_wanted = match devices {
        Devices::All => vmm_replaceable,
        Devices::One(wanted) => wanted == VMM && found.is_empty(),
    };
    if is_vmm_wanted {
        found.push((VMM.to_owned(), jailer::beside(VMM)));
    }
    match devices {
        Devices::One(wanted) if found.is_empty() => Err(ClientError::Refused(
            vm.to_string(),
            format!(
                "device {wanted:?}: no process of the VM serves it; bulkhead inspect lists those that do"
            ),
        )),
        _ => Ok(found),
    }
}

/// What a process serves, by its role: `blk disk0` is a disk of this name. A supervisor that was taken
/// over says what it likes, and gets an open program: of the kinds that we install, no other.
fn device_of(role: &str) -> Option<(&str, &str)> {
    role.split_once(' ')
        .filter(|(kind, _)| KINDS.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(role: &str) -> ProcessInfo {
        ProcessInfo {
            role: role.to_owned(),
            restarts: 0,
            pid: 1,
            spawned_ns: 0,
            first_run_ns: 0,
            pio_exits: 0,
            mmio_exits: 0,
        }
    }

    fn of(devices: Devices<'_>) -> Result<Vec<(String, String)>, ClientError> {
        of_vm(false, devices)
    }

    fn of_vm(
        vmm_replaceable: bool,
        devices: Devices<'_>,
    ) -> Result<Vec<(String, String)>, ClientError> {
        let vm: VmName = "web".parse().unwrap();
        let processes = ["jailer", "vmm", "blk disk0", "net net0"].map(process);
        let found = installed(&vm, &processes, vmm_replaceable, devices)?;
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(found
            .into_iter()
            .map(|(id, path)| (id, name(path)))
            .collect())
    }

    #[test]
    fn each_device_gets_the_program_of_its_kind() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());

        assert_eq!(
            of(Devices::All).unwrap(),
            [pair("disk0", "blk-backend"), pair("net0", "net-backend")]
        );
        assert_eq!(
            of(Devices::One("net0")).unwrap(),
            [pair("net0", "net-backend")]
        );
    }

    #[test]
    fn vmm_gets_the_installed_one_if_it_is_asked_for_or_all_are() {
        let vmm = ("vmm".to_owned(), "vmm".to_owned());
        assert_eq!(of_vm(true, Devices::All).unwrap().last(), Some(&vmm));
        assert_eq!(of(Devices::One("vmm")).unwrap(), [vmm]);
    }

    #[test]
    fn role_that_leads_elsewhere_is_no_device() {
        assert_eq!(
            device_of("input power-button"),
            Some(("input", "power-button"))
        );
        assert_eq!(device_of("../../tmp/blk disk0"), None);
    }

    #[test]
    fn device_without_a_process_is_refused_by_name() {
        let refused = of(Devices::One("fs0")).unwrap_err().to_string();

        assert!(refused.contains("\"fs0\""), "{refused}");
    }
}
