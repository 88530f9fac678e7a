// SPDX-License-Identifier: Apache-2.0
//! A driver that takes no messages: its interrupts come by the function's line.

use crate::testing::{COMMAND, OFFERED};
use crate::virtio::transport::pci::testing::Guest;

const ISR: u64 = 0x1000;
const STATUS: usize = 6;
const INTERRUPT_STATUS: u8 = 8;
/// Memory space, bus mastering, and the line disabled.
const LINE_DISABLED: [u8; 2] = [6, 4];

/// As far as DRIVER_OK, with MSI-X off.
fn without_messages() -> Guest {
    let guest = Guest::fresh();
    guest.config_write(COMMAND, &[6, 0]);
    guest.start(OFFERED, 64);
    guest
}

/// The device's process says that it used buffers, and the vmm has seen it.
fn used(guest: &Guest) {
    guest.call(1);
    guest.wires.look_at_calls();
}

fn status(guest: &Guest) -> u8 {
    guest.config_read(STATUS, 1)[0] & INTERRUPT_STATUS
}

#[test]
fn function_tells_its_pin() {
    assert_eq!(Guest::fresh().config_read(0x3d, 1), [1]);
}

#[test]
fn queue_interrupts_by_the_line_until_the_isr_status_is_read() {
    let guest = without_messages();
    assert!(!guest.wires.line() && status(&guest) == 0);

    used(&guest);

    assert!(guest.wires.line() && status(&guest) != 0);
    assert_eq!(guest.read(ISR, 1), 1);
    assert!(!guest.wires.line() && status(&guest) == 0);
    assert_eq!(guest.read(ISR, 1), 0);
    assert!(guest.wires.take_sent().is_empty());
}

#[test]
fn change_of_configuration_interrupts_by_the_line() {
    let guest = without_messages();
    guest.device.active(|a| a.signals.config_changed());
    assert!(guest.wires.line());
    assert_eq!(guest.read(ISR, 1), 2);
    guest
        .device
        .active(|a| a.signals.used_buffers(crate::virtio::device::QueueIndex(0)));
    assert_eq!((guest.wires.line(), guest.read(ISR, 1)), (true, 1));
}

#[test]
fn line_that_the_driver_disables_is_low_and_the_status_goes_on() {
    let guest = without_messages();
    guest.config_write(COMMAND, &LINE_DISABLED);
    used(&guest);
    assert!(!guest.wires.line() && status(&guest) != 0);
    guest.config_write(COMMAND, &[6, 0]);
    assert!(guest.wires.line());
}

#[test]
fn queues_with_messages_are_not_waited_for_by_the_vmm() {
    let guest = Guest::running();
    assert_eq!(guest.wires.watched(), 0);
    guest.config_write(guest.msix() + 2, &[0, 0]);
    assert_eq!(guest.wires.watched(), 2);
    used(&guest);
    assert!(guest.wires.line());

    guest.config_write(guest.msix() + 2, &[0, 0x80]);

    assert_eq!((guest.wires.watched(), guest.wires.line()), (0, false));
    assert!(guest.wires.take_sent().is_empty());
    guest.call(1);
    assert_eq!(guest.wires.take_sent().len(), 1);
}

#[test]
fn reset_lowers_the_line_and_ends_the_wait() {
    let guest = without_messages();
    used(&guest);
    guest.write8(20, 0);
    assert_eq!(guest.status(), 0);
    assert_eq!((guest.wires.watched(), guest.wires.line()), (0, false));
    assert_eq!(guest.read(ISR, 1), 0);
}

#[test]
fn queue_that_the_host_had_no_memory_to_wait_for_is_waited_for_later() {
    let guest = Guest::fresh();
    guest.config_write(COMMAND, &[6, 0]);
    let exhausted = &guest.wires.exhausted;
    exhausted.store(true, std::sync::atomic::Ordering::SeqCst);
    guest.start(OFFERED, 64);
    assert_eq!(guest.wires.watched(), 0);
    exhausted.store(false, std::sync::atomic::Ordering::SeqCst);

    guest.config_write(COMMAND, &[6, 0]);

    assert_eq!(guest.wires.watched(), 2);
}

#[test]
fn interrupt_pending_while_the_driver_turns_to_messages_comes_once() {
    let guest = Guest::running();
    guest.config_write(guest.msix() + 2, &[0, 0]);
    guest.call(1);

    guest
        .wires
        .look_at_calls_while(|| guest.config_write(guest.msix() + 2, &[0, 0x80]));

    assert!(!guest.wires.line());
    assert_eq!(guest.wires.take_sent().len(), 1);
}
