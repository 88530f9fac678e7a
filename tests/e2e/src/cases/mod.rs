// SPDX-License-Identifier: Apache-2.0
//! The cases: one table, a module for each subject. A case is named `subject_condition_outcome`.

mod audit;
mod bad_files;
mod bad_input;
mod boot;
mod cgroup;
mod compromised_backend;
mod compromised_supervisor;
mod control;
mod cpu_model;
mod data_path;
mod debian;
mod degraded_host;
mod dialect;
mod disk;
mod disk_refused;
mod evil;
mod fs;
mod hugepages;
mod jail;
mod kills;
mod lifecycle;
mod limits;
mod managed;
mod net;
mod net_changes;
mod net_inherited;
mod net_launch;
mod net_passt;
mod nic_anti_spoof;
mod nic_external;
mod nic_killed;
mod no_os;
mod pause;
mod placement;
mod power_button;
mod restart;
mod restart_guest;
mod restart_native;
mod restart_reboot;
mod restart_slow;
mod restart_storage;
mod rootless;
mod standalone;
mod storage_hangs;
mod storage_loses;
mod storm;
mod upgrade;
mod versions;
mod vmm_replaced;
mod vmm_replaced_guest;
mod vmm_replaced_interrupts;
mod vmm_replaced_killed;

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::machine::Machine;

/// What a case needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// No stock guest: any `/dev/kvm` will do.
    Native,
    /// Stock guests, which only a real `/dev/kvm` runs at a bearable speed.
    Guest,
}

/// What a case does. An `Err` is a failure, or a skip if it is a [`crate::context::Skip`].
type Body = Box<dyn Fn(&Context) -> Result<()>>;

/// One case.
pub struct Case {
    /// `subject_condition_outcome`, unique.
    pub name: String,
    /// What it needs.
    pub group: Group,
    /// Only with `--soak`.
    pub soak: bool,
    /// Only with another version to run beside this one.
    pub previous: bool,
    /// When it counts as hung.
    pub limit: Duration,
    /// Machines on which it is not run, and why.
    excepted: Vec<(&'static [Machine], &'static str)>,
    /// What it does.
    pub run: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Case {
    fn new(
        group: Group,
        name: impl Into<String>,
        run: impl Fn(&Context) -> Result<()> + 'static,
    ) -> Self {
        let limit = Duration::from_secs(90);
        Self {
            name: name.into(),
            group,
            soak: false,
            previous: false,
            limit,
            excepted: Vec::new(),
            run: Box::new(run),
        }
    }

    fn native(name: impl Into<String>, run: impl Fn(&Context) -> Result<()> + 'static) -> Self {
        Self::new(Group::Native, name, run)
    }

    fn guest(name: impl Into<String>, run: impl Fn(&Context) -> Result<()> + 'static) -> Self {
        Self::new(Group::Guest, name, run)
    }

    /// Takes programs of another version.
    fn beside_previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// Takes longer than others.
    fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn soak(mut self, limit: Duration) -> Self {
        self.soak = true;
        self.limit = limit;
        self
    }

    /// Is not run on these machines; an earlier reason stands.
    fn not_on(mut self, machines: &'static [Machine], because: &'static str) -> Self {
        self.excepted.push((machines, because));
        self
    }

    /// Is about what only x86_64 has, or would tell nothing new elsewhere.
    fn only_on_x86(self, because: &'static str) -> Self {
        self.not_on(Machine::OTHERS, because)
    }

    /// Is about the vmm or the supervisor, for which engines of disks make no difference.
    fn with_engine(self, engine: &str) -> Self {
        match engine {
            "threads" => self.only_on_x86(ENGINE),
            _ => self,
        }
    }

    /// Whether the second machine of an architecture leaves it to the first.
    #[must_use]
    pub fn is_same_with_any_interrupt_controller(&self) -> bool {
        self.excepted.iter().any(|(_, because)| *because == ONCE)
    }

    /// Why it is not run on a machine.
    #[must_use]
    pub fn not_applicable(&self, machine: Machine) -> Option<&'static str> {
        let mut reasons = self.excepted.iter();
        let found = reasons.find(|(machines, _)| machines.contains(&machine));
        found.map(|(_, because)| *because)
    }
}

/// What is not run on these machines, because of that.
fn not_on<const N: usize>(
    machines: &'static [Machine],
    because: &'static str,
    modules: [Vec<Case>; N],
) -> impl Iterator<Item = Case> {
    let cases = modules.into_iter().flatten();
    cases.map(move |case| case.not_on(machines, because))
}

/// Why what an architecture's first machine runs is not run on its second one.
const ONCE: &str = "its subject is the same with any interrupt controller: the architecture's other machine runs it";
/// Why it is run where counting is quick.
const COUNTS: &str = "a long count or wait, of the same code on every architecture";
/// Why what is run with one engine of disks is not run with the other.
const ENGINE: &str =
    "the vmm and the supervisor see no difference between engines: it is run with `uring` there";
/// Why whole systems are booted where that is quick.
const DEBIAN: &str =
    "a whole Debian takes minutes there, and uses the disk and the NIC that small guests use";

/// Every case there is.
#[must_use]
pub fn all() -> Vec<Case> {
    let everywhere = [
        audit::cases(),
        kills::cases(),
        no_os::cases(),
        boot::cases(),
        disk::cases(),
        evil::cases(),
        restart_reboot::cases(),
        restart_slow::cases(),
        restart_guest::cases(),
        lifecycle::cases(),
        net_launch::cases(),
        restart::cases(),
        upgrade::cases(),
        vmm_replaced::cases(),
        vmm_replaced_guest::cases(),
        vmm_replaced_interrupts::cases(),
        vmm_replaced_killed::cases(),
        data_path::cases(),
    ];
    let once = [
        jail::cases(),
        bad_input::cases(),
        degraded_host::cases(),
        dialect::cases(),
        rootless::cases(),
        storage_hangs::cases(),
        storage_loses::cases(),
        compromised_backend::cases(),
        control::cases(),
        cpu_model::cases(),
        disk_refused::cases(),
        standalone::cases(),
        fs::cases(),
        hugepages::cases(),
        restart_native::cases(),
        cgroup::cases(),
        limits::cases(),
        managed::cases(),
        pause::cases(),
        placement::cases(),
        power_button::cases(),
        net_inherited::cases(),
        net_passt::cases(),
        nic_killed::cases(),
        nic_external::cases(),
        nic_anti_spoof::cases(),
        compromised_supervisor::cases(),
        restart_storage::cases(),
    ];
    let where_counting_is_quick = [versions::cases(), storm::cases()];
    let with_a_debian = [debian::cases(), net::cases(), net_changes::cases()];
    let everywhere = everywhere.into_iter().flatten();
    everywhere
        .chain(not_on(Machine::SECOND, ONCE, once))
        .chain(not_on(Machine::OTHERS, COUNTS, where_counting_is_quick))
        .chain(not_on(Machine::OTHERS, DEBIAN, with_a_debian))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn case_names_are_unique_words() {
        let mut seen = HashSet::new();
        for case in all() {
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(case.name.chars().all(legal), "{}", case.name);
            assert!(seen.insert(case.name.clone()), "{}", case.name);
        }
    }
}
