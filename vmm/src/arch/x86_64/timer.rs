// SPDX-License-Identifier: Apache-2.0
//! The timer of a local APIC (Intel SDM volume 3 §11.5.4) when its vCPU is saved. One that is due fires
//! when it is restored, because KVM does not tell whether its interrupt has reached the local APIC. If it
//! has, and waits there or is in service, the timer must not fire again.

use kvm_bindings::{kvm_lapic_state, kvm_vcpu_events};

const ISR: usize = 0x100;
const IRR: usize = 0x200;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
/// The mode of the timer; one-shot is 0.
const MODE: u32 = 3 << 17;

fn register(lapic: &kvm_lapic_state, at: usize) -> u32 {
    let bytes = lapic.regs.iter().skip(at).take(4).rev();
    bytes.fold(0, |all, byte| all << 8 | u32::from(byte.cast_unsigned()))
}

/// Whether the timer's interrupt waits for the vCPU, is on its way into it, or is in service.
pub(super) fn has_come(lapic: &kvm_lapic_state, events: &kvm_vcpu_events) -> bool {
    let vector = register(lapic, LVT_TIMER) & 0xff;
    let interrupt = &events.interrupt;
    if interrupt.injected != 0 && interrupt.soft == 0 && u32::from(interrupt.nr) == vector {
        return true;
    }
    let word = 0x10 * (vector / 32) as usize;
    let is_set = |table: usize| register(lapic, table + word) >> (vector % 32) & 1 == 1;
    is_set(IRR) || is_set(ISR)
}

/// Stops a one-shot timer that has run down. Its interrupt has come.
pub(super) fn stop_if_run_down(lapic: &mut kvm_lapic_state) {
    let is_one_shot = register(lapic, LVT_TIMER) & MODE == 0;
    if is_one_shot && register(lapic, CURRENT_COUNT) == 0 {
        lapic.regs[INITIAL_COUNT..INITIAL_COUNT + 4].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: u32 = 0xec;

    /// One whose timer, in this mode, has run down to `left`, with vector 0xec in a table, if any.
    fn lapic(mode: u32, left: u32, table: Option<usize>) -> kvm_lapic_state {
        let mut lapic = kvm_lapic_state::default();
        let mut set = |at: usize, value: u32| {
            for (byte, value) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
                *byte = value.cast_signed();
            }
        };
        set(LVT_TIMER, mode << 17 | VECTOR);
        set(INITIAL_COUNT, 1000);
        set(CURRENT_COUNT, left);
        if let Some(table) = table {
            set(table + 0x70, 1 << 12);
        }
        lapic
    }

    fn none() -> kvm_vcpu_events {
        kvm_vcpu_events::default()
    }

    #[test]
    fn interrupt_of_the_timer_is_found_wherever_it_is() {
        assert!(!has_come(&lapic(2, 0, None), &none()));
        for table in [IRR, ISR] {
            assert!(has_come(&lapic(2, 0, Some(table)), &none()));
        }
        let mut injected = none();
        (injected.interrupt.injected, injected.interrupt.nr) = (1, 0xec);
        assert!(has_come(&lapic(2, 0, None), &injected));
    }

    #[test]
    fn interrupt_of_another_vector_is_not_the_timers() {
        let mut other = lapic(2, 0, None);
        other.regs[IRR + 0x70] = 1;
        other.regs[IRR + 0x61] = 0x10;
        let mut injected = none();
        (injected.interrupt.injected, injected.interrupt.nr) = (1, 0xed);
        assert!(!has_come(&other, &injected));
        (injected.interrupt.injected, injected.interrupt.nr) = (0, 0xec);
        assert!(!has_come(&other, &injected));
    }

    #[test]
    fn only_a_one_shot_timer_that_has_run_down_is_stopped() {
        for (mode, left, count) in [(0, 0, 0), (0, 5, 1000), (1, 0, 1000), (2, 0, 1000)] {
            let mut lapic = lapic(mode, left, Some(IRR));
            stop_if_run_down(&mut lapic);
            assert_eq!(register(&lapic, INITIAL_COUNT), count, "{mode} {left}");
        }
    }
}
