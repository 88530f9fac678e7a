// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::testing::COMMAND;
use crate::virtio::transport::pci::layout;
use crate::virtio::transport::pci::testing::{Guest, message};

#[test]
fn queue_interrupt_goes_through_its_vector_without_the_vmm() {
    let guest = Guest::running();
    assert_eq!(guest.wires.assigned().len(), 2);
    guest.call(0);
    guest.call(1);
    assert_eq!(guest.wires.take_sent(), [message(0x41), message(0x42)]);
}

#[test]
fn table_entries_are_masked_after_power_on_and_read_back_what_is_written() {
    let guest = Guest::fresh();
    guest.config_write(COMMAND, &[2, 0]);
    let entry = layout::MSIX_TABLE + 16;
    assert_eq!(guest.read(entry + 12, 4), 1);
    guest.write(entry, &[0xff; 8]);
    guest.write32(entry + 8, 0x1234_5678);
    guest.write32(entry + 12, 0xffff_fffe);
    assert_eq!(guest.read(entry, 8), 0xffff_ffff_ffff_fffc);
    assert_eq!(guest.read(entry + 8, 8), 0x1234_5678);
}

#[test]
fn table_address_written_again_has_nothing_of_what_was_there() {
    let guest = Guest::fresh();
    guest.config_write(COMMAND, &[2, 0]);
    let entry = layout::MSIX_TABLE + 16;
    guest.write(entry, &[0xff; 8]);
    guest.write32(entry, 0x1234_5678);
    assert_eq!(guest.read(entry, 8), 0xffff_ffff_1234_5678);
    guest.write32(entry + 4, 0x0fed_cba9);
    assert_eq!(guest.read(entry, 8), 0x0fed_cba9_1234_5678);
}

#[test]
fn table_write_misaligned_or_of_the_wrong_width_is_ignored() {
    let guest = Guest::running();
    for (offset, len) in [(0, 1), (0, 2), (2, 4), (4, 8), (1, 8), (0, 3), (12, 2)] {
        guest.write(layout::MSIX_TABLE + 16 + offset, &vec![0xff; len]);
    }
    assert_eq!(guest.read(layout::MSIX_TABLE + 16, 8), 0xfee0_0000);
    assert_eq!(guest.read(layout::MSIX_TABLE + 24, 8), 0x41);
}

#[test]
fn table_beyond_its_last_entry_reads_zero() {
    let guest = Guest::running();
    let beyond = layout::MSIX_TABLE + 16 * 3;
    guest.write(beyond, &[0xff; 8]);
    assert_eq!(guest.read(beyond, 8), 0);
}

#[test]
fn vector_masked_holds_the_interrupt_and_delivers_it_once_when_unmasked() {
    let guest = Guest::running();
    guest.mask(1, true);
    guest.call(0);
    guest.call(0);
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 1 << 1));
    guest.mask(1, false);
    assert_eq!(
        (guest.wires.take_sent(), guest.pending()),
        (vec![message(0x41)], 0)
    );
    // Nothing is left over for the next time.
    guest.mask(1, true);
    assert_eq!(guest.pending(), 0);
    guest.mask(1, false);
    assert_eq!(guest.wires.take_sent(), []);
}

#[test]
fn vector_masked_with_nothing_pending_delivers_nothing() {
    let guest = Guest::running();
    guest.mask(1, true);
    guest.mask(1, false);
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 0));
}

#[test]
fn function_mask_holds_every_interrupt() {
    let guest = Guest::running();
    guest.config_write(guest.msix() + 2, &[0, 0xc0]);
    guest.call(0);
    guest.call(1);
    guest.device.active(|a| a.signals.config_changed()).unwrap();
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 0b111));
    guest.config_write(guest.msix() + 2, &[0, 0x80]);
    let mut sent = guest.wires.take_sent();
    sent.sort_by_key(|m| m.data);
    assert_eq!(sent, [message(0x40), message(0x41), message(0x42)]);
    assert_eq!(guest.pending(), 0);
}

#[test]
fn interrupt_that_the_host_cannot_route_stays_pending_until_it_can() {
    let guest = Guest::running();
    guest.mask(1, true);
    guest.call(0);
    guest.wires.exhausted.store(true, Ordering::SeqCst);
    guest.mask(1, false);
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 1 << 1));
    // Masking and unmasking what was never assigned is no fault.
    guest.mask(1, true);
    guest.mask(1, false);
    assert_eq!(guest.wires.assigned(), [(2, message(0x42))]);
    guest.wires.exhausted.store(false, Ordering::SeqCst);
    guest.mask(2, true);
    assert_eq!(
        (guest.wires.take_sent(), guest.pending()),
        (vec![message(0x41)], 0)
    );
}

#[test]
fn interrupt_that_the_host_cannot_route_is_routed_later_without_the_driver() {
    let guest = Guest::running();
    guest.mask(1, true);
    guest.wires.exhausted.store(true, Ordering::SeqCst);
    guest.mask(1, false);
    guest.call(0);
    let retry = || guest.device.active(|a| a.signals.retry()).unwrap();
    retry();
    assert_eq!(guest.wires.take_sent(), []);
    guest.wires.exhausted.store(false, Ordering::SeqCst);
    retry();
    assert_eq!(guest.wires.take_sent(), [message(0x41)]);
    guest.call(0);
    retry();
    assert_eq!(guest.wires.take_sent(), [message(0x41)]);
}

#[test]
fn bus_master_off_holds_every_interrupt() {
    let guest = Guest::running();
    guest.config_write(COMMAND, &[2, 0]);
    guest.call(0);
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 1 << 1));
    guest.config_write(COMMAND, &[6, 0]);
    assert_eq!(guest.wires.take_sent(), [message(0x41)]);
}

#[test]
fn pending_bits_cannot_be_written() {
    let guest = Guest::running();
    guest.mask(1, true);
    guest.call(0);
    guest.write(layout::MSIX_PBA, &[0; 8]);
    assert_eq!(guest.pending(), 1 << 1);
    guest.write(layout::MSIX_PBA, &[0xff; 8]);
    assert_eq!(guest.pending(), 1 << 1);
}

#[test]
fn message_changed_while_unmasked_is_the_one_sent() {
    let guest = Guest::running();
    guest.program(1, 0x99);
    guest.call(0);
    assert_eq!(guest.wires.take_sent(), [message(0x99)]);
}

#[test]
fn queues_that_share_a_vector_are_pending_together() {
    let guest = Guest::running();
    guest.write16(22, 1);
    guest.write16(26, 1);
    guest.mask(1, true);
    guest.call(1);
    assert_eq!(guest.pending(), 1 << 1);
    guest.mask(1, false);
    assert_eq!(guest.wires.take_sent(), [message(0x41)]);
    guest.call(0);
    assert_eq!(guest.wires.take_sent(), [message(0x41)]);
}

#[test]
fn queue_unmapped_interrupts_no_more() {
    let guest = Guest::running();
    guest.write16(22, 0);
    guest.write16(26, 0xffff);
    guest.call(0);
    guest
        .device
        .active(|a| a.signals.used_buffers(a.queues[0].index))
        .unwrap();
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 0));
}

#[test]
fn used_buffers_interrupts_once_and_waits_for_the_mask() {
    let guest = Guest::running();
    let interrupt = || {
        let (signals, queue) = guest
            .device
            .active(|a| (Arc::clone(&a.signals), a.queues[1].index))
            .unwrap();
        signals.used_buffers(queue);
    };
    interrupt();
    assert_eq!(guest.wires.take_sent(), [message(0x42)]);
    guest.mask(2, true);
    interrupt();
    assert_eq!((guest.wires.take_sent(), guest.pending()), (vec![], 1 << 2));
    guest.mask(2, false);
    assert_eq!(guest.wires.take_sent(), [message(0x42)]);
}

#[test]
fn reset_unmaps_every_event_and_forgets_what_was_pending() {
    let guest = Guest::running();
    guest.mask(0, true);
    guest.mask(1, true);
    guest.call(0);
    guest.device.active(|a| a.signals.config_changed()).unwrap();
    guest.write8(20, 0);
    assert_eq!(guest.status(), 0);
    assert_eq!((guest.pending(), guest.wires.assigned()), (0, vec![]));
    guest.mask(0, false);
    guest.mask(1, false);
    assert_eq!(guest.wires.take_sent(), []);
}
