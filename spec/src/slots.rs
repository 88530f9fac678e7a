// SPDX-License-Identifier: Apache-2.0
//! Gives each device its slot on the guest's PCI bus: the one that its spec asks for, or the first that
//! is free. The guest finds devices in the order of their slots.

use std::collections::BTreeSet;

use ipc::slot::DeviceSlot;

use crate::device::DEVICES_MAX;
use crate::{DiskSpec, NetSpec, SpecError, VhostUserSpec};

/// The slots of a VM's devices, each list in the order of the spec.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) disks: Vec<DeviceSlot>,
    pub(crate) nets: Vec<DeviceSlot>,
    pub(crate) vhost_user: Vec<DeviceSlot>,
}

/// Gives out slots. Those that no spec asks for go, in order, to disks, NICs with a tap, NICs without
/// one and other programs' devices.
pub(crate) fn assign(
    disks: &[DiskSpec],
    nets: &[NetSpec],
    vhost_user: &[VhostUserSpec],
) -> Result<Slots, SpecError> {
    let count = disks.len() + nets.len() + vhost_user.len();
    if count > DEVICES_MAX {
        let reason = format!("are too many: a VM can have {DEVICES_MAX}");
        return Err(SpecError::new("devices", count, reason));
    }
    let asked = disks.iter().map(|disk| ("disk.slot", disk.slot));
    let asked = asked.chain(nets.iter().map(|net| ("net.slot", net.slot)));
    let asked = asked.chain(vhost_user.iter().map(|one| ("vhost-user.slot", one.slot)));
    let taken = check(asked)?;
    let mut free = DeviceSlot::all().filter(|slot| !taken.contains(slot));
    let mut give = |asked: Option<u32>| {
        let slot = asked.and_then(slot).or_else(|| free.next());
        // There are as many slots as there may be devices.
        slot.ok_or_else(|| SpecError::new("devices", count, "are too many"))
    };
    let disks = disks.iter().map(|disk| give(disk.slot));
    let disks = disks.collect::<Result<_, _>>()?;
    let mut of_nets = Vec::with_capacity(nets.len());
    for is_user in [false, true] {
        for (index, net) in nets.iter().enumerate() {
            if net.user == is_user {
                of_nets.push((index, give(net.slot)?));
            }
        }
    }
    of_nets.sort_unstable();
    let vhost_user = vhost_user.iter().map(|one| give(one.slot));
    Ok(Slots {
        disks,
        nets: of_nets.into_iter().map(|(_, slot)| slot).collect(),
        vhost_user: vhost_user.collect::<Result<_, _>>()?,
    })
}

/// The slot of this number, if a user's device can have it.
fn slot(number: u32) -> Option<DeviceSlot> {
    let number = u8::try_from(number).ok()?;
    DeviceSlot::new(number).filter(|slot| slot.number() <= DeviceSlot::MAX)
}

/// Checks the slots that specs ask for; returns them.
fn check(
    asked: impl Iterator<Item = (&'static str, Option<u32>)>,
) -> Result<BTreeSet<DeviceSlot>, SpecError> {
    let mut taken = BTreeSet::new();
    for (field, number) in asked {
        let Some(number) = number else { continue };
        let Some(slot) = slot(number) else {
            let reason = format!("must be 1 to {}", DeviceSlot::MAX);
            return Err(SpecError::new(field, number, reason));
        };
        if !taken.insert(slot) {
            return Err(SpecError::new(field, number, "is that of another device"));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(disks: &[&str], nets: &[&str], others: &[&str]) -> Result<[Vec<u8>; 3], SpecError> {
        let disks: Vec<DiskSpec> = disks.iter().map(|text| text.parse().unwrap()).collect();
        let nets: Vec<NetSpec> = nets.iter().map(|text| text.parse().unwrap()).collect();
        let others: Vec<VhostUserSpec> = others.iter().map(|text| text.parse().unwrap()).collect();
        let slots = assign(&disks, &nets, &others)?;
        let numbers = |slots: Vec<DeviceSlot>| slots.iter().map(|slot| slot.number()).collect();
        Ok([slots.disks, slots.nets, slots.vhost_user].map(numbers))
    }

    #[test]
    fn devices_that_ask_for_nothing_follow_each_other() {
        let slots = assigned(
            &["path=/a", "path=/b"],
            &["user", "tap=t"],
            &["type=rng,socket=/s"],
        );
        assert_eq!(slots.unwrap(), [vec![1, 2], vec![4, 3], vec![5]]);
    }

    #[test]
    fn device_gets_the_slot_it_asks_for_and_others_fill_the_gaps() {
        let slots = assigned(
            &["path=/a", "path=/b,slot=1"],
            &["user", "tap=t,slot=24"],
            &["type=rng,socket=/s,slot=2", "type=vsock,socket=/v"],
        );
        assert_eq!(slots.unwrap(), [vec![3, 1], vec![4, 24], vec![2, 5]]);
    }

    #[test]
    fn slot_impossible_or_taken_is_refused() {
        for (disks, nets, field, value) in [
            (&["path=/a,slot=0"][..], &[][..], "disk.slot", "0"),
            (&[], &["user,slot=25"], "net.slot", "25"),
            (&[], &["user,slot=257"], "net.slot", "257"),
            (&["path=/a,slot=7"], &["user,slot=7"], "net.slot", "7"),
        ] {
            let error = assigned(disks, nets, &[]).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), (field, value));
        }
    }

    #[test]
    fn as_many_devices_as_slots_fit_and_one_more_does_not() {
        let full = vec!["path=/a"; DEVICES_MAX];
        assert_eq!(assigned(&full, &[], &[]).unwrap()[0].last(), Some(&24));
        let error = assigned(&full, &["user"], &[]).unwrap_err();
        assert_eq!((error.field, error.value.as_str()), ("devices", "25"));
    }
}
