// SPDX-License-Identifier: Apache-2.0
//! The devices' part of the vmm's launch record, in the order of their PCI slots.

use ipc::fd::input;
use ipc::record::{DeviceKind, DeviceRecord, NicRecord};
use ipc::slot::DeviceSlot;
use spec::{
    Disk, Net, NetKind, POWER_BUTTON_ID, PowerButton, VhostUser, VhostUserKind, Vm, VmName,
};

/// The size of passt's queues.
const USER_QUEUE_SIZE: u16 = 256;

/// The records; `is_up` tells whether a device's link is up.
pub(crate) fn of(vm: &Vm, name: &VmName, is_up: impl Fn(&str) -> bool) -> Vec<DeviceRecord> {
    let mut records: Vec<_> = vm.disks.iter().map(disk).collect();
    records.extend(vm.nets.iter().map(|net| card(net, name, &is_up)));
    let others = vm.vhost_user.iter();
    records.extend(others.map(|one| external(one, name, &is_up)));
    records.extend((vm.power_button == PowerButton::Virtio).then(button));
    // The vmm places BARs in the order of the records: it is part of what the guest sees.
    records.sort_by_key(|record| record.slot);
    records
}

fn disk(disk: &Disk) -> DeviceRecord {
    DeviceRecord {
        slot: disk.slot,
        id: disk.id.to_string(),
        kind: DeviceKind::Block,
        queues: disk.queues,
        queue_size: disk.queue_size,
        foreign: false,
        inflight: true,
    }
}

fn card(net: &Net, vm: &VmName, is_up: &impl Fn(&str) -> bool) -> DeviceRecord {
    let (queues, queue_size, external) = match &net.kind {
        // Two queues for each pair, and the control queue.
        NetKind::Tap(tap) => (2 * tap.pairs + 1, tap.queue_size, false),
        NetKind::User(_) => (2, USER_QUEUE_SIZE, true),
    };
    DeviceRecord {
        slot: net.slot,
        id: net.id.to_string(),
        kind: DeviceKind::Net(NicRecord {
            mac: net.mac(vm.as_str()).bytes(),
            link_up: is_up(net.id.as_str()),
        }),
        queues,
        queue_size,
        foreign: external,
        // What the driver has set on the control queue is kept in this region, which is
        // cleared like requests in flight.
        inflight: !external,
    }
}

fn button() -> DeviceRecord {
    DeviceRecord {
        slot: DeviceSlot::POWER_BUTTON,
        id: POWER_BUTTON_ID.into(),
        kind: DeviceKind::PowerButton,
        queues: input::QUEUES,
        queue_size: input::QUEUE_SIZE,
        foreign: false,
        inflight: false,
    }
}

fn external(device: &VhostUser, vm: &VmName, is_up: &impl Fn(&str) -> bool) -> DeviceRecord {
    DeviceRecord {
        slot: device.slot,
        id: device.id.to_string(),
        kind: match &device.kind {
            VhostUserKind::Fs(tag) => DeviceKind::Fs(tag.clone()),
            VhostUserKind::Vsock => DeviceKind::Vsock,
            VhostUserKind::Rng => DeviceKind::Rng,
            VhostUserKind::Blk => DeviceKind::Block,
            VhostUserKind::Net => DeviceKind::Net(NicRecord {
                mac: spec::derived_mac(vm.as_str(), device.id.as_str()).bytes(),
                link_up: is_up(device.id.as_str()),
            }),
            VhostUserKind::Other(id) => DeviceKind::Other(*id),
        },
        queues: device.queues,
        queue_size: device.queue_size,
        foreign: true,
        inflight: super::external::is_tracked(&device.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::VmSpec;

    #[test]
    fn records_are_in_the_order_of_the_slots_and_links_are_as_they_were_left() {
        let mut spec = VmSpec::new("/k");
        spec.nets = vec![
            "user,id=out".parse().unwrap(),
            "tap=tap0,queues=4,queue-size=512".parse().unwrap(),
        ];
        spec.vhost_user = vec!["type=net,socket=/s".parse().unwrap()];
        let (vm, name) = (Vm::try_from(spec).unwrap(), "web".parse().unwrap());
        let records = of(&vm, &name, |id| id != "net1");
        let slots = records.iter().map(|record| record.slot.number());
        assert!(slots.eq(1..=3));
        let told = records.iter().map(|record| {
            let DeviceKind::Net(nic) = &record.kind else {
                panic!("{record:?}");
            };
            let id = record.id.as_str();
            (
                id,
                record.queues,
                record.foreign,
                record.inflight,
                nic.link_up,
            )
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ("net1", 9, false, true, false),
                ("out", 2, true, false, true),
                ("vhost0", 2, true, false, true),
            ]
        );
    }
}
