// SPDX-License-Identifier: Apache-2.0
//! The cases: one table, a module for each subject. A case is named `subject_condition_outcome`.

mod audit;
mod bad_input;
mod boot;
mod compromised_backend;
mod compromised_supervisor;
mod control;
mod debian;
mod degraded_host;
mod disk;
mod disk_refused;
mod evil;
mod fs;
mod jail;
mod kills;
mod lifecycle;
mod limits;
mod net;
mod net_changes;
mod net_launch;
mod net_passt;
mod nic_anti_spoof;
mod nic_external;
mod nic_killed;
mod no_os;
mod pause;
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

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;

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
}

/// Every case there is.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        audit::cases(),
        jail::cases(),
        bad_input::cases(),
        degraded_host::cases(),
        kills::cases(),
        rootless::cases(),
        storage_hangs::cases(),
        storage_loses::cases(),
        no_os::cases(),
        compromised_backend::cases(),
        control::cases(),
        boot::cases(),
        disk::cases(),
        disk_refused::cases(),
        debian::cases(),
        standalone::cases(),
        fs::cases(),
        evil::cases(),
        restart_native::cases(),
        restart_reboot::cases(),
        restart_slow::cases(),
        restart_storage::cases(),
        restart_guest::cases(),
        lifecycle::cases(),
        limits::cases(),
        net::cases(),
        net_changes::cases(),
        pause::cases(),
        power_button::cases(),
        net_launch::cases(),
        net_passt::cases(),
        restart::cases(),
        nic_killed::cases(),
        nic_external::cases(),
        nic_anti_spoof::cases(),
        upgrade::cases(),
        compromised_supervisor::cases(),
        versions::cases(),
        storm::cases(),
    ]
    .into_iter()
    .flatten()
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
