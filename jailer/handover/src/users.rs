// SPDX-License-Identifier: Apache-2.0
//! Who is who among the users of a VM.

use spec::Vm;

/// Who the supervisor is among the users that are mapped for it: the first of the VM's own, or the only
/// one there is. That one is not 0, as which nobody could be mapped again without CAP_SETFCAP (since
/// Linux 5.12), and the supervisor has no such right.
pub fn supervisors_user(has_range: bool) -> u8 {
    match has_range {
        true => 0,
        false => 1,
    }
}

/// Which of the VM's users serves the card at place `index` in the spec, be that we or passt: those
/// of the disks come before it.
pub fn cards_user(vm: &Vm, index: usize) -> u8 {
    u8::try_from(2 + vm.disks.len() + index).unwrap_or(u8::MAX)
}
