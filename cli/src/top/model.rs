// SPDX-License-Identifier: Apache-2.0
//! The displayed data: rates from two reports in a row, and their history. Pure.

use std::collections::VecDeque;

use spec::VmName;
use spec::api::{DeviceKind, DeviceStats};

use super::sampler::News;
use crate::stats::{Process, Report, directions};

/// How many reports the graphs show.
pub(super) const HISTORY: usize = 240;

/// All displayed data.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Sorted by name.
    vms: Vec<VmView>,
    chosen: usize,
    blind: Option<String>,
}

/// The displayed data of a VM.
#[derive(Debug)]
pub(super) struct VmView {
    pub(super) report: Report,
    pub(super) rates: Rates,
    pub(super) history: VecDeque<Point>,
    /// Why it does not answer, if it does not.
    pub(super) silent: Option<String>,
}

/// The rates of each process and device of a report, in its order.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Rates {
    /// Processor time in thousandths of one processor; `None` for a process that is new or hidden
    /// from us.
    pub(super) cpu: Vec<Option<u64>>,
    /// The rates of the devices.
    pub(super) devices: Vec<DeviceRates>,
}

/// The rates of a device, per second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceRates {
    pub(super) requests: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

/// The rates of a VM at one time, for the graphs and the list.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Thousandths of one processor.
    pub(super) cpu: u64,
    /// Requests of all disks per second.
    pub(super) iops: u64,
    /// Bytes of all disks per second.
    pub(super) disk_bytes: u64,
    /// Packets of all NICs per second.
    pub(super) packets: u64,
    /// Bytes of all NICs per second.
    pub(super) nic_bytes: u64,
}

impl Model {
    /// Updates the data with what a sampling thread reports.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Report(report) => {
                self.blind = None;
                self.note(*report);
            }
            News::Silent(name, reason) => {
                if let Ok(at) = self.find(&name) {
                    self.vms[at].silent = Some(reason);
                }
            }
            News::Gone(name) => {
                if let Ok(at) = self.find(&name) {
                    self.vms.remove(at);
                    // Keep the same VM chosen.
                    if at < self.chosen || self.chosen == self.vms.len() {
                        self.chosen = self.chosen.saturating_sub(1);
                    }
                }
            }
            News::Blind(reason) => self.blind = Some(reason),
        }
    }

    fn find(&self, name: &VmName) -> Result<usize, usize> {
        self.vms.binary_search_by(|vm| vm.report.name.cmp(name))
    }

    fn note(&mut self, report: Report) {
        match self.find(&report.name) {
            Ok(at) => self.vms[at].update(report),
            Err(at) => {
                if at <= self.chosen && !self.vms.is_empty() {
                    self.chosen += 1;
                }
                self.vms.insert(at, VmView::new(report));
            }
        }
    }

    /// Moves the choice up or down in the list.
    pub(super) fn choose(&mut self, by: isize) {
        let last = self.vms.len().saturating_sub(1);
        self.chosen = self.chosen.saturating_add_signed(by).min(last);
    }

    /// All VMs.
    pub(super) fn vms(&self) -> &[VmView] {
        &self.vms
    }

    /// The index of the chosen VM in the list.
    pub(super) fn chosen(&self) -> usize {
        self.chosen
    }

    /// Why the list of VMs cannot be read.
    pub(super) fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }
}

impl VmView {
    fn new(report: Report) -> Self {
        Self {
            rates: Rates {
                cpu: vec![None; report.processes.len()],
                devices: vec![DeviceRates::default(); report.devices.len()],
            },
            report,
            history: VecDeque::new(),
            silent: None,
        }
    }

    fn update(&mut self, report: Report) {
        let past_ns = report.time_ns.saturating_sub(self.report.time_ns);
        if past_ns > 0 {
            self.rates = rates(&self.report, &report, past_ns);
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(point(&report, &self.rates));
        }
        self.report = report;
        self.silent = None;
    }

    /// The latest rates of the whole VM.
    pub(super) fn now(&self) -> Point {
        self.history.back().copied().unwrap_or_default()
    }

    /// The memory of its processes: with their share of shared memory, if the kernel tells us.
    pub(super) fn memory_bytes(&self) -> u64 {
        let processes = self.report.processes.iter();
        let each = processes.map(|p| p.usage.pss_bytes.or(p.usage.rss_bytes).unwrap_or(0));
        each.fold(0, u64::saturating_add)
    }

    /// How many of its backends have died.
    pub(super) fn restarts(&self) -> u64 {
        let devices = self.report.devices.iter();
        devices.fold(0, |sum, device| sum.saturating_add(device.restarts))
    }
}

/// A rate per second; 0 if the counter went back, because it belongs to a new VM.
fn per_second(old: u64, new: u64, past_ns: u64) -> u64 {
    let grown = u128::from(new.saturating_sub(old));
    let rate = grown * 1_000_000_000 / u128::from(past_ns.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn rates(old: &Report, new: &Report, past_ns: u64) -> Rates {
    let cpu = |process: &Process| {
        let same = |other: &&Process| {
            (other.info.pid, other.info.spawned_ns) == (process.info.pid, process.info.spawned_ns)
        };
        let before = old.processes.iter().find(same)?.usage.cpu_ns?;
        // One processor spends 10^9 ns per second, which are 1000 thousandths.
        Some(per_second(before, process.usage.cpu_ns?, past_ns) / 1_000_000)
    };
    let device = |device: &DeviceStats| {
        let before = old.devices.iter().find(|other| other.id == device.id);
        before.map_or_else(DeviceRates::default, |before| {
            device_rates(before, device, past_ns)
        })
    };
    Rates {
        cpu: new.processes.iter().map(cpu).collect(),
        devices: new.devices.iter().map(device).collect(),
    }
}

fn device_rates(old: &DeviceStats, new: &DeviceStats, past_ns: u64) -> DeviceRates {
    let rate = |old, new| per_second(old, new, past_ns);
    let [received, sent] = match new.kind {
        DeviceKind::Disk => [0, 0],
        DeviceKind::Nic => {
            let (old, new) = (directions(old), directions(new));
            [0, 1].map(|way| rate(old[way].requests, new[way].requests))
        }
    };
    DeviceRates {
        requests: rate(old.total.requests, new.total.requests),
        received,
        sent,
        read_bytes: rate(old.total.read_bytes, new.total.read_bytes),
        written_bytes: rate(old.total.written_bytes, new.total.written_bytes),
    }
}

fn point(report: &Report, rates: &Rates) -> Point {
    let mut point = Point {
        cpu: rates.cpu.iter().flatten().sum(),
        ..Point::default()
    };
    for (device, rates) in report.devices.iter().zip(&rates.devices) {
        let bytes = rates.read_bytes.saturating_add(rates.written_bytes);
        let (count, moved) = match device.kind {
            DeviceKind::Disk => (&mut point.iops, &mut point.disk_bytes),
            DeviceKind::Nic => (&mut point.packets, &mut point.nic_bytes),
        };
        *count = count.saturating_add(rates.requests);
        *moved = moved.saturating_add(bytes);
    }
    point
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::tests::report;

    fn after(ns: u64, change: impl Fn(&mut Report)) -> News {
        let mut next = report();
        next.time_ns += ns;
        change(&mut next);
        News::Report(Box::new(next))
    }

    #[test]
    fn rates_are_what_has_grown_in_a_second() {
        let mut model = Model::default();
        model.hear(after(0, |_| {}));
        assert_eq!(model.vms()[0].now(), Point::default());
        model.hear(after(2_000_000_000, |next| {
            next.processes[0].usage.cpu_ns = Some(2_020_000_000);
            next.devices[0].total.requests += 100;
            next.devices[0].total.read_bytes += 4096;
            next.devices[1].total.requests += 8;
            next.devices[1].queues[1].traffic.requests += 8;
        }));
        let vm = &model.vms()[0];
        assert_eq!(vm.rates.cpu, [Some(500), None]);
        let disk = vm.rates.devices[0];
        assert_eq!((disk.requests, disk.read_bytes), (50, 2048));
        let nic = vm.rates.devices[1];
        assert_eq!((nic.received, nic.sent), (0, 4));
        let wanted = Point {
            cpu: 500,
            iops: 50,
            disk_bytes: 2048,
            packets: 4,
            nic_bytes: 0,
        };
        assert_eq!(vm.now(), wanted);
    }

    #[test]
    fn process_that_was_replaced_has_no_rate_and_counters_do_not_go_back() {
        let mut model = Model::default();
        model.hear(after(0, |_| {}));
        model.hear(after(1_000_000_000, |next| {
            next.processes[0].info.spawned_ns += 1;
            next.devices[0].total.requests = 0;
        }));
        let vm = &model.vms()[0];
        assert_eq!(vm.rates.cpu[0], None);
        assert_eq!(vm.rates.devices[0].requests, 0);
    }

    #[test]
    fn history_is_bounded() {
        let mut model = Model::default();
        for second in 0..2 * HISTORY as u64 {
            model.hear(after(second * 1_000_000_000, |_| {}));
        }
        assert_eq!(model.vms()[0].history.len(), HISTORY);
    }

    #[test]
    fn chosen_vm_stays_chosen_while_others_come_and_go() {
        let mut model = Model::default();
        let named = |name: &'static str| move |next: &mut Report| next.name = name.parse().unwrap();
        for name in ["b", "d"] {
            model.hear(after(0, named(name)));
        }
        model.choose(5);
        let chosen = |model: &Model| model.vms()[model.chosen()].report.name.to_string();
        assert_eq!(chosen(&model), "d");
        for name in ["a", "c", "e"] {
            model.hear(after(0, named(name)));
            assert_eq!(chosen(&model), "d");
        }
        model.hear(News::Gone("b".parse().unwrap()));
        assert_eq!(chosen(&model), "d");
        model.hear(News::Gone("d".parse().unwrap()));
        assert_eq!(chosen(&model), "e");
        model.hear(News::Gone("e".parse().unwrap()));
        assert_eq!(chosen(&model), "c");
        model.choose(-9);
        assert_eq!(chosen(&model), "a");
    }

    #[test]
    fn vm_that_does_not_answer_is_marked_until_it_does() {
        let mut model = Model::default();
        model.hear(after(0, |_| {}));
        model.hear(News::Silent("web".parse().unwrap(), "why".into()));
        assert_eq!(model.vms()[0].silent.as_deref(), Some("why"));
        model.hear(after(1, |_| {}));
        assert_eq!(model.vms()[0].silent, None);
    }
}
