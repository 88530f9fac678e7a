// SPDX-License-Identifier: Apache-2.0
//! The VM's processes and their counters, for the API. Reading them costs no system call, and the
//! processes nothing.

use nix::unistd::Pid;
use spec::api::{ExitStats, ProcessInfo, Stats};

use super::Supervisor;
use super::vmm::Vmm;

impl Supervisor {
    /// For `stats`.
    pub(super) fn stats(&self, now_ns: u64) -> Stats {
        Stats {
            name: self.identity.name.clone(),
            time_ns: now_ns,
            state: self.lifecycle.state(),
            reboots: self.lifecycle.reboots(),
            exits: self.exits(),
            processes: self.processes(),
            devices: self.devices.stats(now_ns),
        }
    }

    /// The exits of the vCPUs of all vmms so far.
    pub(super) fn exits(&self) -> ExitStats {
        let past = self.past_exits;
        self.vmm.as_ref().map(Vmm::info).map_or(past, |vmm| {
            // The vmm's own claims: the sum must not overflow.
            ExitStats {
                pio: past.pio.saturating_add(vmm.pio_exits),
                mmio: past.mmio.saturating_add(vmm.mmio_exits),
            }
        })
    }

    /// All processes, the jailer first.
    pub(super) fn processes(&self) -> Vec<ProcessInfo> {
        let identity = &self.identity;
        let ours = |role: &str, pid: Pid, spawned_ns| ProcessInfo {
            role: role.into(),
            restarts: 0,
            pid: pid.as_raw(),
            spawned_ns,
            first_run_ns: 0,
            pio_exits: 0,
            mmio_exits: 0,
        };
        let pids = self.pids;
        let jailer = ours("jailer", pids.jailer, identity.started_ns);
        let supervisor = ours("supervisor", pids.supervisor, self.born_ns);
        [jailer, supervisor]
            .into_iter()
            .chain(self.vmm.as_ref().map(Vmm::info))
            .chain(self.devices.processes())
            .collect()
    }
}
