// SPDX-License-Identifier: Apache-2.0
//! `bulkhead inspect`: one VM in full.

use std::path::Path;

use host::clock::monotonic_ns;
use spec::VmName;
use spec::api::{ProcessInfo, VmInfo, VmState};

use crate::client::{self, ClientError};
use crate::ended;
use crate::error::{Error, NO_VM};
use crate::output;
use crate::table::{align, span};

/// Shows a VM; returns the exit status, which tells whether it runs.
pub(crate) fn inspect(base: &Path, vm: &VmName, json: bool) -> Result<u8, Error> {
    let info = match client::info(base, vm) {
        Err(error @ ClientError::Unknown(..)) => return inspect_ended(base, vm, json, error),
        info => info?,
    };
    match json {
        true => output::print_json(&info)?,
        false => output::print(&describe(&info, &base.join(vm.as_str()), monotonic_ns()))?,
    }
    Ok(0)
}

/// Shows a VM that has ended, if that is still known.
fn inspect_ended(base: &Path, vm: &VmName, json: bool, error: ClientError) -> Result<u8, Error> {
    let Some(ended) = ended::find(base, vm) else {
        return Err(error.into());
    };
    match json {
        true => output::print_json(&ended::Shown::from(ended))?,
        false => output::print(&ended::describe(&ended))?,
    }
    Ok(NO_VM)
}

/// The name of a state.
pub(crate) fn state(state: VmState) -> &'static str {
    match state {
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Stopping => "stopping",
    }
}

/// How long a process has been running.
pub(crate) fn age(process: &ProcessInfo, now_ns: u64) -> String {
    span(now_ns.saturating_sub(process.spawned_ns) / 1_000_000_000)
}

/// The interrupt controller that the machine has, or is to have.
fn irqchip(info: &VmInfo) -> String {
    let wanted = || info.spec.irqchip.to_string();
    info.irqchip.clone().unwrap_or_else(wanted)
}

/// The power button that the machine has.
fn power_button(info: &VmInfo) -> String {
    let wanted = info.spec.power_button;
    info.power_button.unwrap_or(wanted).to_string()
}

fn describe(info: &VmInfo, dir: &Path, now_ns: u64) -> String {
    let spec = &info.spec;
    let console = match (&info.console_socket, &info.pty) {
        (Some(socket), _) => format!("{} {}", spec.console, socket.display()),
        (_, Some(path)) => format!("pty {path}"),
        (None, None) => spec.console.to_string(),
    };
    let prefault = if spec.prefault { ", prefaulted" } else { "" };
    let initrd = spec.initrd.as_ref().map(|path| path.display().to_string());
    let fields = [
        ("name", info.name.to_string()),
        ("state", state(info.state).to_string()),
        ("reboots", info.reboots.to_string()),
        ("kernel", spec.kernel.display().to_string()),
        ("initrd", initrd.unwrap_or_else(|| "none".into())),
        ("cmdline", info.cmdline.clone()),
        ("cpus", spec.cpus.to_string()),
        ("cpu", spec.cpu.to_string()),
        ("mem", format!("{}{prefault}", spec.mem)),
        ("hugepages", spec.hugepages.to_string()),
        ("console", console),
        ("irqchip", irqchip(info)),
        ("power-button", power_button(info)),
        ("on-reboot", spec.on_reboot.to_string()),
        ("seccomp", spec.seccomp.to_string()),
        ("log-format", spec.log_format.to_string()),
        ("state-dir", dir.display().to_string()),
    ];
    let disks = spec.disks.iter().map(|disk| ("disk", disk.to_string()));
    let others = spec
        .vhost_user
        .iter()
        .map(|d| ("vhost-user", d.to_string()));
    let nets = spec.nets.iter().map(|net| ("net", net.to_string()));
    let limits = spec.limits.iter().map(|l| ("limits", l.to_string()));
    let fields = fields.into_iter().chain(disks).chain(nets).chain(others);
    let timeout = spec
        .stop_timeout
        .map(|s| ("stop-timeout", format!("{s} s")));
    let node = spec.host_numa_node;
    let node = node.map(|node| ("host-numa-node", node.to_string()));
    let affinity = spec.affinity.iter().map(|a| ("affinity", a.to_string()));
    let fields = fields.chain(node).chain(limits).chain(affinity);
    let fields = fields.chain(timeout);
    let fields: Vec<_> = fields
        .map(|(field, value)| vec![field.to_string(), value])
        .collect();
    let mut text = format!("{}\n{}", align(&fields), align(&processes(info, now_ns)));
    if !info.devices.is_empty() {
        text.push('\n');
        text.push_str(&align(&devices(info)));
    }
    text
}

fn processes(info: &VmInfo, now_ns: u64) -> Vec<Vec<String>> {
    let header = ["ROLE", "PID", "AGE", "RESTARTS", "PIO EXITS", "MMIO EXITS"];
    let mut rows = vec![header.map(String::from).to_vec()];
    rows.extend(info.processes.iter().map(|process| {
        vec![
            process.role.clone(),
            process.pid.to_string(),
            age(process, now_ns),
            process.restarts.to_string(),
            process.pio_exits.to_string(),
            process.mmio_exits.to_string(),
        ]
    }));
    rows
}

fn devices(info: &VmInfo) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["DEVICE", "BACKEND", "STATE", "RESTARTS", "LINK"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(info.devices.iter().map(|device| {
        let link = match device.link_up {
            Some(true) => "up",
            Some(false) => "down",
            None => "-",
        };
        vec![
            device.id.clone(),
            device.role.clone(),
            device.state.as_str().into(),
            device.restarts.to_string(),
            link.into(),
        ]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::VmSpec;
    use spec::api::{DeviceInfo, DeviceState};

    #[test]
    fn description_has_the_spec_and_every_process() {
        let info = VmInfo {
            name: "web".parse().unwrap(),
            state: VmState::Paused,
            spec: VmSpec {
                limits: vec!["of=vm,cpu=150".parse().unwrap()],
                ..VmSpec::new("/k")
            },
            cmdline: "console=ttyS0".into(),
            console_socket: Some("/run/bulkhead/web/console.sock".into()),
            pty: None,
            irqchip: Some("gicv2".into()),
            power_button: None,
            vmm_replaceable: false,
            reboots: 2,
            processes: vec![ProcessInfo {
                role: "vmm".into(),
                restarts: 4,
                pid: 77,
                spawned_ns: 0,
                first_run_ns: 0,
                pio_exits: 5,
                mmio_exits: 6,
            }],
            devices: vec![
                DeviceInfo {
                    id: "disk0".into(),
                    role: "blk disk0".into(),
                    state: DeviceState::Stalled,
                    restarts: 5,
                    link_up: None,
                },
                DeviceInfo {
                    id: "out".into(),
                    role: "net.user \"out\"".into(),
                    state: DeviceState::Serving,
                    restarts: 0,
                    link_up: Some(false),
                },
            ],
        };
        let text = describe(&info, Path::new("/run/bulkhead/web"), 61_000_000_000);
        for part in [
            "name          web\n",
            "state         paused\n",
            "kernel        /k\n",
            "cmdline       console=ttyS0\n",
            "console       stdio /run/bulkhead/web/console.sock\n",
            "irqchip       gicv2\n",
            "power-button  auto\n",
            "limits        of=vm,cpu=150\n",
            "vmm   77   1m01s  4         5          6\n",
            "disk0   blk disk0       stalled  5         -\n",
            "out     net.user \"out\"  serving  0         down\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
