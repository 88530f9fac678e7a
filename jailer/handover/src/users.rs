// SPDX-License-Identifier: Apache-2.0
//! Which of a VM's users each process is.

use spec::Vm;

/// The supervisor's user id in its user namespace: 0, the first of the VM's range, or 1, the only
/// id that is mapped if there is no range. Without a range it is not 0, because since Linux 5.12 a
/// process needs CAP_SETFCAP to map user 0 again, and the supervisor does not have that.
pub fn supervisors_user(has_range: bool) -> u8 {
    match has_range {
        true => 0,
        false => 1,
    }
}

/// The VM's user that serves a power button: the users of disks and NICs come before it.
pub fn buttons_user(vm: &Vm) -> u8 {
    cards_user(vm, vm.nets.len())
}

/// The VM's user that serves the NIC at place `index` in the spec, whether our backend or passt
/// does. The users of the disks come before it.
pub fn cards_user(vm: &Vm, index: usize) -> u8 {
    u8::try_from(2 + vm.disks.len() + index).unwrap_or(u8::MAX)
}
