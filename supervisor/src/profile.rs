// SPDX-License-Identifier: Apache-2.0
//! The part of a jail that depends on the kind of process. All the rest is the same for every
//! child, and in [`crate::child`].

use handover::users::{buttons_user, cards_user};
use ipc::fd::input;
use ipc::record::Geometry;
use spec::{Console, CpuSet, Disk, Held, NetKind, PowerButton, Tap, Vm};

/// How long any process may make the log. The supervisor shortens it long before.
pub(crate) const LOG_BYTES_MAX: u64 = 256 << 20;

/// What a backend is started with, and what it opens beside its queues.
const BACKEND_DESCRIPTORS: u64 = 64;
/// A ring, a kick, a call, their copies, and what a worker waits with.
const DESCRIPTORS_PER_DISK_QUEUE: u64 = 16;
/// For a NIC's pair of queues: the tap's queue, kicks, calls, their copies, and what a worker
/// thread waits with.
const DESCRIPTORS_PER_PAIR: u64 = 32;
/// What a vmm is started with, and what it opens beside its queues and vCPUs.
const VMM_DESCRIPTORS: u64 = 128;
/// A kick, a call, and their copies on the way to a backend.
const DESCRIPTORS_PER_QUEUE: u64 = 4;
/// The vCPU, and what wakes it.
const DESCRIPTORS_PER_CPU: u64 = 2;

/// The part of a jail that depends on the kind of process in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Which of the VM's users it runs as; the supervisor is user 0.
    pub(crate) user: u8,
    /// RLIMIT_NOFILE.
    pub(crate) descriptors_max: u64,
    /// RLIMIT_FSIZE, which limits writes to files, not what is mapped.
    pub(crate) file_bytes_max: u64,
    /// RLIMIT_NPROC, if no control group counts its threads.
    pub(crate) threads_max: Option<u64>,
    /// oom_score_adj: the kernel should kill a backend, which can be replaced, before a vmm.
    pub(crate) oom_score_adj: i32,
    /// The processors that it runs on; `None` for those of the supervisor.
    pub(crate) affinity: Option<CpuSet>,
}

/// What the user says of a disk's backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfDisk {
    threads_max: Option<u64>,
    affinity: Option<CpuSet>,
}

impl OfDisk {
    /// Of the disk at place `index` in the spec.
    pub(crate) fn new(vm: &Vm, index: u8) -> Self {
        Self {
            threads_max: threads_max(vm, Held::Disk(index.into())),
            affinity: vm.affinity.of_disk(index.into()),
        }
    }
}

/// How many threads the user of a process may have, if no control group counts them.
fn threads_max(vm: &Vm, held: Held) -> Option<u64> {
    vm.threads_max(held).map(u64::from)
}

/// The jail of the backend of the disk at place `index` in the spec.
pub(crate) fn of_disk(index: u8, disk: &Disk, geometry: &Geometry, given: OfDisk) -> Profile {
    Profile {
        user: 2 + index,
        descriptors_max: BACKEND_DESCRIPTORS + u64::from(disk.queues) * DESCRIPTORS_PER_DISK_QUEUE,
        // A write beyond this is EFBIG, even inside an existing file.
        file_bytes_max: LOG_BYTES_MAX.max(geometry.capacity_bytes),
        threads_max: given.threads_max,
        oom_score_adj: 400,
        affinity: given.affinity,
    }
}

/// The jail of the backend of the NIC with this tap, at place `index` in the spec.
pub(crate) fn of_nic(vm: &Vm, index: usize, tap: &Tap) -> Profile {
    Profile {
        user: cards_user(vm, index),
        descriptors_max: BACKEND_DESCRIPTORS + u64::from(tap.pairs) * DESCRIPTORS_PER_PAIR,
        file_bytes_max: LOG_BYTES_MAX,
        threads_max: threads_max(vm, Held::Net(index)),
        oom_score_adj: 400,
        affinity: vm.affinity.of_net(index),
    }
}

/// The jail of the backend of a power button.
pub(crate) fn of_button(vm: &Vm) -> Profile {
    Profile {
        user: buttons_user(vm),
        descriptors_max: BACKEND_DESCRIPTORS,
        file_bytes_max: LOG_BYTES_MAX,
        threads_max: None,
        oom_score_adj: 400,
        affinity: vm.affinity.of_others(),
    }
}

/// The jail of the vmm of a VM.
pub(crate) fn of_vmm(vm: &Vm) -> Profile {
    let disks = vm.disks.iter().map(|disk| disk.queues);
    let others = vm.vhost_user.iter().map(|device| device.queues);
    // A NIC with a tap has pairs of queues and one control queue.
    let cards = vm.nets.iter().map(|net| match &net.kind {
        NetKind::Tap(tap) => 2 * tap.pairs + 1,
        NetKind::User(_) => 2,
    });
    let button = (vm.power_button == PowerButton::Virtio).then_some(input::QUEUES);
    let queues = disks.chain(others).chain(cards).chain(button);
    let queues: u64 = queues.map(u64::from).sum();
    Profile {
        user: 1,
        descriptors_max: VMM_DESCRIPTORS
            + queues * DESCRIPTORS_PER_QUEUE
            + u64::from(vm.cpus) * DESCRIPTORS_PER_CPU,
        file_bytes_max: match vm.console {
            // The file is the user's, and may be long already.
            Console::File(_) => u64::MAX,
            _ => LOG_BYTES_MAX.max(vm.memory.size_bytes()),
        },
        threads_max: threads_max(vm, Held::Vmm),
        oom_score_adj: 200,
        affinity: vm.affinity.of_vmm(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::VmSpec;

    #[test]
    fn limits_grow_with_the_vm_and_not_without_reason() {
        let mut spec = VmSpec::new("/k");
        let small = of_vmm(&Vm::try_from(spec.clone()).unwrap());
        assert_eq!(small.descriptors_max, VMM_DESCRIPTORS + 2);
        assert_eq!(small.file_bytes_max, 512 << 20);
        spec.cpus = 4;
        spec.disks = vec!["path=/a,queues=4".parse().unwrap()];
        spec.console = Console::File("/f".into());
        let large = of_vmm(&Vm::try_from(spec).unwrap());
        assert_eq!(large.descriptors_max, VMM_DESCRIPTORS + 16 + 8);
        assert_eq!(large.file_bytes_max, u64::MAX);
        let cards = "tap=t,queues=8".parse();
        let spec = VmSpec {
            nets: vec![cards.unwrap()],
            ..VmSpec::new("/k")
        };
        let wide = of_vmm(&Vm::try_from(spec).unwrap());
        assert_eq!(wide.descriptors_max, VMM_DESCRIPTORS + 17 * 4 + 2);
    }

    #[test]
    fn threads_are_counted_by_user_only_where_no_group_counts_them() {
        let mut spec = VmSpec {
            disks: vec!["path=/a".parse().unwrap()],
            nets: vec!["tap=t".parse().unwrap()],
            limits: ["of=vmm,pids=40", "of=net0,pids=41", "of=disk0,pids=42"]
                .map(|text| text.parse().unwrap())
                .into(),
            ..VmSpec::new("/k")
        };
        let most = |spec: &VmSpec| {
            let vm = Vm::try_from(spec.clone()).unwrap();
            let NetKind::Tap(tap) = &vm.nets[0].kind else {
                panic!("not a tap");
            };
            let disk = OfDisk::new(&vm, 0).threads_max;
            [
                of_vmm(&vm).threads_max,
                of_nic(&vm, 0, tap).threads_max,
                disk,
            ]
        };
        assert_eq!(most(&spec), [None; 3]);
        spec.cgroup = Some(spec::Cgroup::Inherit);
        assert_eq!(most(&spec), [Some(40), Some(41), Some(42)]);
    }
}
