// SPDX-License-Identifier: Apache-2.0
//! `bulkhead stats`: the statistics of a VM, and what `/proc` tells about its processes.

use std::path::Path;

use serde::Serialize;
use spec::VmName;
use spec::api::{DeviceKind, DeviceStats, ExitStats, ProcessInfo, Stats, Traffic, VmState};

use crate::client::{self, ClientError};
use crate::error::Error;
use crate::host::{self, Usage};
use crate::output;
use crate::table::{align, bytes, cpu_time};

mod prometheus;

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A table.
    Table,
    /// JSON.
    Json,
    /// The text format of Prometheus.
    Prometheus,
}

/// A VM's own statistics, and the host's about its processes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: VmName,
    /// CLOCK_MONOTONIC in ns.
    pub(crate) time_ns: u64,
    pub(crate) state: VmState,
    pub(crate) reboots: u32,
    pub(crate) exits: ExitStats,
    pub(crate) processes: Vec<Process>,
    pub(crate) devices: Vec<DeviceStats>,
}

/// A process, as the VM and as `/proc` report it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Process {
    #[serde(flatten)]
    pub(crate) info: ProcessInfo,
    #[serde(flatten)]
    pub(crate) usage: Usage,
}

impl Report {
    /// Queries a VM and `/proc`.
    pub(crate) fn take(base: &Path, vm: &VmName) -> Result<Self, ClientError> {
        let stats = client::stats(base, vm)?;
        Ok(Self::new(stats, host::usage))
    }

    fn new(stats: Stats, usage: impl Fn(&ProcessInfo) -> Usage) -> Self {
        let processes = stats.processes.into_iter().map(|info| Process {
            usage: usage(&info),
            info,
        });
        Self {
            name: stats.name,
            time_ns: stats.time_ns,
            state: stats.state,
            reboots: stats.reboots,
            exits: stats.exits,
            processes: processes.collect(),
            devices: stats.devices,
        }
    }
}

/// The traffic that a NIC has received, and sent.
pub(crate) fn directions(device: &DeviceStats) -> [Traffic; 2] {
    let of = |first| {
        let queues = device.queues.iter().skip(first).step_by(2);
        let traffic = queues.map(|queue| queue.traffic);
        traffic.fold(Traffic::default(), Traffic::plus)
    };
    [of(0), of(1)]
}

/// Shows the statistics of one VM, or of all.
pub(crate) fn stats(base: &Path, vm: Option<&VmName>, form: Form) -> Result<(), Error> {
    let Some(vm) = vm else {
        return all(base, form);
    };
    let report = Report::take(base, vm)?;
    let text = match form {
        Form::Table => describe(&report),
        Form::Json => json(&report)?,
        Form::Prometheus => prometheus::encode(&[report]),
    };
    output::print(&text)
}

fn all(base: &Path, form: Form) -> Result<(), Error> {
    let mut reports = Vec::new();
    for vm in crate::state::names(base)? {
        match Report::take(base, &vm) {
            Ok(report) => reports.push(report),
            // The VM has ended meanwhile.
            Err(ClientError::Unknown(..)) => {}
            Err(error) => output::complain(&error),
        }
    }
    let text = match form {
        Form::Table => reports.iter().map(describe).collect::<Vec<_>>().join("\n"),
        Form::Json => json(&reports)?,
        Form::Prometheus => prometheus::encode(&reports),
    };
    output::print(&text)
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    Ok(text.map_err(|e| Error::output(e.into()))? + "\n")
}

fn describe(report: &Report) -> String {
    let fields = [
        ("name", report.name.to_string()),
        ("state", crate::inspect::state(report.state).to_string()),
        ("reboots", report.reboots.to_string()),
        ("pio exits", report.exits.pio.to_string()),
        ("mmio exits", report.exits.mmio.to_string()),
    ];
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(field, value)| vec![field.to_string(), value])
        .collect();
    let mut text = format!("{}\n{}", align(&fields), align(&processes(report)));
    if !report.devices.is_empty() {
        text.push('\n');
        text.push_str(&align(&devices(report)));
    }
    let dropped = dropped(report);
    if !dropped.is_empty() {
        text.push('\n');
        text.push_str(&align(&dropped));
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

fn processes(report: &Report) -> Vec<Vec<String>> {
    let unknown = || "-".to_string();
    let mut rows = vec![row(["ROLE", "PID", "CPU", "RSS", "PSS", "RESTARTS"])];
    rows.extend(report.processes.iter().map(|process| {
        let usage = &process.usage;
        vec![
            process.info.role.clone(),
            process.info.pid.to_string(),
            usage.cpu_ns.map_or_else(unknown, cpu_time),
            usage.rss_bytes.map_or_else(unknown, bytes),
            usage.pss_bytes.map_or_else(unknown, bytes),
            process.info.restarts.to_string(),
        ]
    }));
    rows
}

fn devices(report: &Report) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "DEVICE", "REQUESTS", "ERRORS", "READ", "WRITTEN", "INFLIGHT", "RESTARTS", "FLAGS",
    ])];
    for device in &report.devices {
        let in_flight: u64 = device.queues.iter().map(|q| u64::from(q.in_flight)).sum();
        let requests = match device.kind {
            DeviceKind::Disk => device.total.requests.to_string(),
            DeviceKind::Nic => {
                let [received, sent] = directions(device);
                format!("{}/{}", received.requests, sent.requests)
            }
        };
        rows.push(vec![
            device.id.clone(),
            requests,
            device.total.errors.to_string(),
            bytes(device.total.read_bytes),
            bytes(device.total.written_bytes),
            in_flight.to_string(),
            device.restarts.to_string(),
            flags(device),
        ]);
    }
    rows
}

/// What network cards have dropped; no rows if there is nothing.
fn dropped(report: &Report) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for device in &report.devices {
        for (reason, count) in device.dropped.iter().filter(|(_, count)| **count > 0) {
            rows.push(vec![device.id.clone(), reason.clone(), count.to_string()]);
        }
    }
    if !rows.is_empty() {
        rows.insert(0, row(["DEVICE", "DROPPED", "COUNT"]));
    }
    rows
}

/// The flags of a device: those that any of its queues has.
pub(crate) fn flags(device: &DeviceStats) -> String {
    let any = |has: fn(&spec::api::QueueStats) -> bool| device.queues.iter().any(has);
    let flags = [
        (any(|q| q.backpressured), "backpressured"),
        (any(|q| q.broken), "broken"),
    ];
    let set = flags.into_iter().filter(|(is_set, _)| *is_set);
    let words: Vec<_> = set.map(|(_, word)| word).collect();
    words.join(",")
}

#[cfg(test)]
#[path = "stats/tests.rs"]
pub(crate) mod tests;
