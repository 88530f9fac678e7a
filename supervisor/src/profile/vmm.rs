// SPDX-License-Identifier: Apache-2.0
//! The jail of a vmm.

use spec::{Console, NetKind, Vm};

use super::{LOG_BYTES_MAX, Profile};

/// What it is started with, and what it opens beside its queues and vCPUs.
const DESCRIPTORS: u64 = 128;
/// A kick, a call, and their copies on the way to a backend.
const DESCRIPTORS_PER_QUEUE: u64 = 4;
/// The vCPU, and what wakes it.
const DESCRIPTORS_PER_CPU: u64 = 2;

/// The vmm of a VM.
pub(crate) fn profile(vm: &Vm) -> Profile {
    let disks = vm.disks.iter().map(|disk| disk.queues);
    let others = vm.vhost_user.iter().map(|device| device.queues);
    // A NIC with a tap has pairs of queues and one control queue.
    let cards = vm.nets.iter().map(|net| match &net.kind {
        NetKind::Tap(tap) => 2 * tap.pairs + 1,
        NetKind::User(_) => 2,
    });
    let queues = disks.chain(others).chain(cards);
    let queues: u64 = queues.map(u64::from).sum();
    Profile {
        user: 1,
        descriptors_max: DESCRIPTORS
            + queues * DESCRIPTORS_PER_QUEUE
            + u64::from(vm.cpus) * DESCRIPTORS_PER_CPU,
        file_bytes_max: match vm.console {
            // The file is the user's, and may be long already.
            Console::File(_) => u64::MAX,
            _ => LOG_BYTES_MAX.max(vm.memory.size_bytes()),
        },
        oom_score_adj: 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::VmSpec;

    #[test]
    fn limits_grow_with_the_vm_and_not_without_reason() {
        let mut spec = VmSpec::new("/k");
        let small = profile(&Vm::try_from(spec.clone()).unwrap());
        assert_eq!(small.descriptors_max, DESCRIPTORS + 2);
        assert_eq!(small.file_bytes_max, 512 << 20);
        spec.cpus = 4;
        spec.disks = vec!["path=/a,queues=4".parse().unwrap()];
        spec.console = Console::File("/f".into());
        let large = profile(&Vm::try_from(spec).unwrap());
        assert_eq!(large.descriptors_max, DESCRIPTORS + 16 + 8);
        assert_eq!(large.file_bytes_max, u64::MAX);
        let cards = "tap=t,queues=8".parse();
        let spec = VmSpec {
            nets: vec![cards.unwrap()],
            ..VmSpec::new("/k")
        };
        let wide = profile(&Vm::try_from(spec).unwrap());
        assert_eq!(wide.descriptors_max, DESCRIPTORS + 17 * 4 + 2);
    }
}
