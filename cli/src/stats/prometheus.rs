// SPDX-License-Identifier: Apache-2.0
//! Statistics in the text format of Prometheus, version 0.0.4: base units, counters that end in
//! `_total`, labels for the VM and its part.

use std::fmt::Write as _;

use spec::api::{DeviceKind, DeviceStats, VmState};

use super::{Process, Report, directions};
use crate::inspect;

/// A family of metrics: one name, one line of help, one sample for each set of labels.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<(String, String)>,
}

/// The statistics of these VMs, each family once, as the format requires.
pub(super) fn encode(reports: &[Report]) -> String {
    let families = vms(reports)
        .into_iter()
        .chain(processes(reports))
        .chain(devices(reports))
        .chain(disks(reports))
        .chain(nics(reports));
    let mut text = String::new();
    for family in families.filter(|family| !family.samples.is_empty()) {
        let Family {
            name, kind, help, ..
        } = family;
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in &family.samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    }
    text
}

fn counter(
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = (String, String)>,
) -> Family {
    family(name, "counter", help, samples)
}

fn gauge(
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = (String, String)>,
) -> Family {
    family(name, "gauge", help, samples)
}

fn family(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = (String, String)>,
) -> Family {
    Family {
        name,
        kind,
        help,
        samples: samples.into_iter().collect(),
    }
}

/// Labels as in braces, without the braces.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |value: &str| {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs = pairs
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Nanoseconds in seconds, exactly.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

fn vms(reports: &[Report]) -> Vec<Family> {
    let states = [
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
    ];
    let mut in_state = Vec::new();
    let (mut reboots, mut exits) = (Vec::new(), Vec::new());
    for report in reports {
        let vm = ("vm", report.name.as_str());
        for state in states {
            let is_in = u8::from(state == report.state).to_string();
            in_state.push((labels(&[vm, ("state", inspect::state(state))]), is_in));
        }
        reboots.push((labels(&[vm]), report.reboots.to_string()));
        for (kind, count) in [("pio", report.exits.pio), ("mmio", report.exits.mmio)] {
            exits.push((labels(&[vm, ("kind", kind)]), count.to_string()));
        }
    }
    vec![
        gauge(
            "bulkhead_vm_state",
            "1 for the state that the VM is in.",
            in_state,
        ),
        counter(
            "bulkhead_vm_reboots_total",
            "How often the guest has rebooted.",
            reboots,
        ),
        counter(
            "bulkhead_vm_vcpu_exits_total",
            "Exits of vCPUs to the vmm, for port I/O and memory-mapped I/O.",
            exits,
        ),
    ]
}

fn processes(reports: &[Report]) -> Vec<Family> {
    let each = |value: &dyn Fn(&Process) -> Option<String>| {
        let mut samples = Vec::new();
        for report in reports {
            for process in &report.processes {
                let pairs = [
                    ("vm", report.name.as_str()),
                    ("process", process.info.role.as_str()),
                ];
                samples.extend(value(process).map(|value| (labels(&pairs), value)));
            }
        }
        samples
    };
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    vec![
        counter(
            "bulkhead_vm_process_cpu_seconds_total",
            "Processor time of a process of the VM, user and system.",
            each(&|p| p.usage.cpu_ns.map(seconds)),
        ),
        gauge(
            "bulkhead_vm_process_resident_memory_bytes",
            "Resident memory of a process, with all that it shares.",
            each(&|p| number(p.usage.rss_bytes)),
        ),
        gauge(
            "bulkhead_vm_process_proportional_memory_bytes",
            "Resident memory of a process, with its part of what it shares.",
            each(&|p| number(p.usage.pss_bytes)),
        ),
        gauge(
            "bulkhead_vm_process_start_time_monotonic_seconds",
            "When a process was started, on the host's monotonic clock.",
            each(&|p| Some(seconds(p.info.spawned_ns))),
        ),
    ]
}

/// A sample for every device of the kind, or for every device.
fn of_devices(
    reports: &[Report],
    kind: Option<DeviceKind>,
    value: impl Fn(&DeviceStats) -> u64,
) -> Vec<(String, String)> {
    let mut samples = Vec::new();
    for report in reports {
        let wanted = |device: &&DeviceStats| kind.is_none_or(|kind| kind == device.kind);
        for device in report.devices.iter().filter(wanted) {
            let pairs = [("vm", report.name.as_str()), ("device", device.id.as_str())];
            samples.push((labels(&pairs), value(device).to_string()));
        }
    }
    samples
}

fn devices(reports: &[Report]) -> Vec<Family> {
    let all = |value: fn(&DeviceStats) -> u64| of_devices(reports, None, value);
    let flagged = |flag: fn(&spec::api::QueueStats) -> bool| {
        of_devices(reports, None, move |d| u64::from(d.queues.iter().any(flag)))
    };
    vec![
        counter(
            "bulkhead_vm_device_restarts_total",
            "How many backends of the device have died.",
            all(|d| d.restarts),
        ),
        gauge(
            "bulkhead_vm_device_in_flight_requests",
            "Requests that the backend has fetched and not completed.",
            all(|d| d.queues.iter().map(|q| u64::from(q.in_flight)).sum()),
        ),
        gauge(
            "bulkhead_vm_device_backpressured",
            "1 while what is behind the backend takes no more.",
            flagged(|q| q.backpressured),
        ),
        gauge(
            "bulkhead_vm_device_broken",
            "1 while a queue stands still because the guest broke the rules of virtio.",
            flagged(|q| q.broken),
        ),
    ]
}

fn disks(reports: &[Report]) -> Vec<Family> {
    let disk = |value: fn(&DeviceStats) -> u64| of_devices(reports, Some(DeviceKind::Disk), value);
    vec![
        counter(
            "bulkhead_vm_disk_requests_total",
            "Requests of the guest that were completed.",
            disk(|d| d.total.requests),
        ),
        counter(
            "bulkhead_vm_disk_errors_total",
            "Requests among them that ended in an error.",
            disk(|d| d.total.errors),
        ),
        counter(
            "bulkhead_vm_disk_read_bytes_total",
            "Bytes that the guest has read.",
            disk(|d| d.total.read_bytes),
        ),
        counter(
            "bulkhead_vm_disk_written_bytes_total",
            "Bytes that the guest has written.",
            disk(|d| d.total.written_bytes),
        ),
    ]
}

fn nics(reports: &[Report]) -> Vec<Family> {
    let nic = |value: fn(&DeviceStats) -> u64| of_devices(reports, Some(DeviceKind::Nic), value);
    vec![
        counter(
            "bulkhead_vm_nic_received_packets_total",
            "Packets that the guest has received.",
            nic(|d| directions(d)[0].requests),
        ),
        counter(
            "bulkhead_vm_nic_received_bytes_total",
            "Bytes that the guest has received.",
            nic(|d| d.total.read_bytes),
        ),
        counter(
            "bulkhead_vm_nic_sent_packets_total",
            "Packets that the guest has sent.",
            nic(|d| directions(d)[1].requests),
        ),
        counter(
            "bulkhead_vm_nic_sent_bytes_total",
            "Bytes that the guest has sent.",
            nic(|d| d.total.written_bytes),
        ),
        counter(
            "bulkhead_vm_nic_errors_total",
            "Packets that ended in an error.",
            nic(|d| d.total.errors),
        ),
        counter(
            "bulkhead_vm_nic_dropped_packets_total",
            "Packets and control commands that went no further, by reason.",
            dropped(reports),
        ),
    ]
}

fn dropped(reports: &[Report]) -> Vec<(String, String)> {
    let mut samples = Vec::new();
    for report in reports {
        for device in &report.devices {
            for (reason, count) in &device.dropped {
                let pairs = [
                    ("vm", report.name.as_str()),
                    ("device", device.id.as_str()),
                    ("reason", reason.as_str()),
                ];
                samples.push((labels(&pairs), count.to_string()));
            }
        }
    }
    samples
}
