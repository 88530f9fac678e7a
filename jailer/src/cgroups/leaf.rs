// SPDX-License-Identifier: Apache-2.0
//! The groups of a VM's processes, and how many threads each can need.

use spec::{POWER_BUTTON_ID, PowerButton, Vm};

/// Threads of a process beyond those that are counted.
const SPARE_THREADS: u64 = 32;
/// Threads that the kernel may start for one io_uring, and our own thread for its queue.
const THREADS_PER_QUEUE: u64 = 24;

/// The group of one process.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) name: String,
    pub(super) threads_max: Option<u64>,
}

/// The supervisor's group.
pub(super) const SUPERVISOR: &str = "supervisor";

/// The groups of a VM's processes, by user number.
pub(super) fn all(vm: &Vm) -> Vec<Leaf> {
    let button = usize::from(vm.power_button == PowerButton::Virtio);
    let devices = vm.disks.len() + vm.nets.len() + vm.vhost_user.len() + button;
    let devices = u64::try_from(devices).unwrap_or(u64::MAX);
    let leaf = |name: &str, threads_max| Leaf {
        name: name.into(),
        threads_max: Some(threads_max),
    };
    let mut all = vec![
        leaf(SUPERVISOR, SPARE_THREADS),
        leaf("vmm", u64::from(vm.cpus) + devices + SPARE_THREADS),
    ];
    all.extend(vm.disks.iter().map(|disk| {
        let threads = u64::from(disk.queues) * THREADS_PER_QUEUE + SPARE_THREADS;
        leaf(&format!("blk-{}", disk.id), threads)
    }));
    let nets = vm.nets.iter();
    all.extend(nets.map(|net| leaf(&format!("net-{}", net.id), 2 * SPARE_THREADS)));
    if button > 0 {
        all.push(leaf(POWER_BUTTON_ID, SPARE_THREADS));
    }
    all
}
