// SPDX-License-Identifier: Apache-2.0

#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{BASE, COMMAND, OFFERED};
use crate::virtio::device::QueueIndex;
use crate::virtio::transport::pci::testing::{BAR0, Guest, Random, message};

fn u32_at(guest: &Guest, offset: usize) -> u32 {
    u32::from_le_bytes(guest.config_read(offset, 4).try_into().unwrap())
}

#[test]
fn identity_is_that_of_a_modern_virtio_device() {
    let guest = Guest::fresh();
    assert_eq!(u32_at(&guest, 0), 0x1042_1af4);
    assert_eq!(u32_at(&guest, 8), 0x0100_0001);
    assert_eq!(u32_at(&guest, 0x2c), 0x1042_1af4);
}

#[test]
fn capabilities_hold_every_structure_within_the_bar() {
    let guest = Guest::fresh();
    let expected = [(1, 0, 56), (2, 0x3000, 8), (3, 0x1000, 1), (4, 0x2000, 8)];
    for (cfg_type, offset, length) in expected {
        let at = guest.vendor(cfg_type);
        let bar = guest.config_read(at + 4, 1)[0];
        assert_eq!(
            (bar, u32_at(&guest, at + 8), u32_at(&guest, at + 12)),
            (0, offset, length)
        );
        let cap_len = guest.config_read(at + 2, 1)[0];
        assert_eq!(cap_len, if cfg_type == 2 { 20 } else { 16 });
    }
    assert_eq!(u32_at(&guest, guest.vendor(2) + 16), 4);
    assert_eq!(guest.config_read(guest.vendor(5) + 2, 1), [20]);
    assert_eq!(u32_at(&guest, guest.msix()) >> 16, 2);
    assert_eq!(u32_at(&guest, guest.msix() + 4), 0x8000);
    assert_eq!(u32_at(&guest, guest.msix() + 8), 0xc000);
}

#[test]
fn capabilities_are_read_only_but_for_what_a_driver_may_write() {
    let guest = Guest::fresh();
    let before: Vec<u32> = (0x40..0x100)
        .step_by(4)
        .map(|at| u32_at(&guest, at))
        .collect();
    for at in (0x40..0x100).step_by(4) {
        guest.config_write(at, &[0xff; 4]);
    }
    let pci_cfg = guest.vendor(5);
    for (at, before) in (0x40..0x100).step_by(4).zip(before) {
        let writable = if at == pci_cfg + 4 {
            0xff
        } else if at == guest.msix() {
            0xc000_0000
        } else if (pci_cfg + 8..pci_cfg + 20).contains(&at) {
            0xffff_ffff
        } else {
            0
        };
        assert_eq!(
            u32_at(&guest, at) & !writable,
            before & !writable,
            "at {at:#x}"
        );
    }
}

#[test]
fn features_show_what_the_transport_can_bear() {
    let guest = Guest::enabled();
    guest.write32(0, 0);
    let low = guest.read(4, 4);
    guest.write32(0, 1);
    assert_eq!(low | guest.read(4, 4) << 32, OFFERED);
}

#[test]
fn activation_carries_features_queues_and_eventfds() {
    let guest = Guest::running();
    guest
        .device
        .active(|activation| {
            assert_eq!((activation.features, activation.queues.len()), (OFFERED, 2));
            let queue = &activation.queues[1];
            assert_eq!((queue.index, queue.layout.size()), (QueueIndex(1), 64));
            assert_eq!(queue.layout.device().0, 0x20_2000);
        })
        .unwrap();
    assert_eq!(guest.status(), 0xf);
}

#[test]
fn activation_waits_for_bus_mastering() {
    let guest = Guest::enabled();
    guest.config_write(COMMAND, &[2, 0]);
    guest.negotiate(OFFERED);
    guest.set_up_queue(0, 64, 0);
    guest.write8(20, 0xf);
    assert!(guest.device.activation.lock().unwrap().is_none());
    guest.config_write(COMMAND, &[6, 0]);
    assert!(guest.device.activation.lock().unwrap().is_some());
}

#[test]
fn doorbell_is_registered_when_its_queue_is_enabled_and_stays_over_a_reset() {
    let guest = Guest::enabled();
    assert!(guest.wires.doorbells().is_empty());
    guest.negotiate(OFFERED);
    guest.set_up_queue(1, 64, 0);
    let addresses = || guest.wires.doorbells();
    assert_eq!(addresses(), [BASE + 0x3004]);
    guest.write8(20, 0);
    assert_eq!(guest.status(), 0);
    assert_eq!(addresses(), [BASE + 0x3004]);
    guest.negotiate(OFFERED);
    guest.set_up_queue(0, 64, 0);
    guest.set_up_queue(1, 64, 0);
    assert_eq!(addresses(), [BASE + 0x3000, BASE + 0x3004]);
}

#[test]
fn doorbell_that_the_host_cannot_place_is_placed_once_it_can() {
    let guest = Guest::enabled();
    guest.wires.exhausted.store(true, Ordering::SeqCst);
    guest.start(OFFERED, 64);
    assert!(guest.wires.doorbells().is_empty());
    // The driver's writes arrive all the same.
    guest.write16(0x3000, 0);
    assert_eq!(*guest.device.notified.lock().unwrap(), [QueueIndex(0)]);
    guest.wires.exhausted.store(false, Ordering::SeqCst);
    guest.config_write(COMMAND, &[4, 0]);
    guest.config_write(COMMAND, &[6, 0]);
    assert_eq!(guest.wires.doorbells(), [BASE + 0x3000, BASE + 0x3004]);
}

#[test]
fn notification_that_missed_the_doorbell_reaches_a_running_device_only() {
    let guest = Guest::enabled();
    guest.write16(0x3000, 0);
    let guest = Guest::running();
    guest.write16(0x3004, 1);
    guest.write16(0x3008, 2);
    guest.write16(0x7ffe, 0);
    assert_eq!(*guest.device.notified.lock().unwrap(), [QueueIndex(1)]);
}

#[test]
fn bar_moved_takes_registers_and_doorbells_along() {
    let mut guest = Guest::running();
    guest.config_write(COMMAND, &[4, 0]);
    assert_eq!(guest.read(20, 1), 0xff);
    assert!(guest.wires.doorbells().is_empty());
    guest.config_write(BAR0 + 4, &0x200_u32.to_le_bytes());
    guest.config_write(COMMAND, &[6, 0]);
    guest.base = 0x200 << 32;
    assert_eq!(guest.status(), 0xf);
    assert_eq!(
        guest.wires.doorbells(),
        [guest.base + 0x3000, guest.base + 0x3004]
    );
}

#[test]
fn bar_moved_onto_another_device_does_not_answer_until_moved_away() {
    let mut guest = Guest::running();
    let other = Guest::fresh();
    let elsewhere = 0x300_u64 << 32;
    let function = Arc::clone(&other.function.registers) as Arc<dyn BusDevice>;
    guest
        .memory
        .insert(elsewhere + 0x8000, 0x10, function)
        .unwrap();
    guest.config_write(BAR0 + 4, &0x300_u32.to_le_bytes());
    guest.base = elsewhere;
    assert_eq!(guest.read(20, 1), 0xff);
    assert!(guest.wires.doorbells().is_empty());
    guest.config_write(BAR0 + 4, &0x400_u32.to_le_bytes());
    guest.base = 0x400 << 32;
    assert_eq!(guest.status(), 0xf);
}

#[test]
fn bar_moved_to_either_end_of_the_address_space_does_no_harm() {
    let mut guest = Guest::running();
    for base in [u64::MAX << 16, 0, 0xfee0_0000, BASE] {
        guest.config_write(BAR0, &(base as u32).to_le_bytes());
        guest.config_write(BAR0 + 4, &((base >> 32) as u32).to_le_bytes());
        guest.base = base;
        assert_eq!(guest.status(), 0xf);
    }
}

#[test]
fn reset_of_a_device_never_started_is_immediate() {
    let guest = Guest::enabled();
    guest.negotiate(OFFERED);
    guest.write8(20, 0);
    assert_eq!(guest.status(), 0);
}

#[test]
fn reset_reads_nonzero_until_the_device_has_drained() {
    let guest = Guest::running();
    guest.device.drains_slowly.store(true, Ordering::SeqCst);
    guest.write8(20, 0);
    assert_eq!(guest.status(), 0xf);
    // Impatience does not help.
    guest.write8(20, 0);
    guest.write8(20, 0xf);
    assert_eq!(guest.status(), 0xf);
    guest.device.finish_reset();
    assert_eq!(guest.status(), 0);
    guest.negotiate(OFFERED);
    guest.set_up_queue(0, 64, 1);
    guest.write8(20, 0xf);
    assert_eq!(guest.device.active(|a| a.queues.len()), Some(1));
}

#[test]
fn needs_reset_shows_in_the_status_and_interrupts() {
    let guest = Guest::running();
    guest.device.active(|a| a.signals.needs_reset()).unwrap();
    assert_eq!(guest.status(), 0x4f);
    assert_eq!(guest.wires.take_sent(), [message(0x40)]);
    assert_eq!(guest.read(0x1000, 1), 2);
    guest.write8(20, 0);
    assert_eq!(guest.status(), 0);
}

#[test]
fn config_change_sets_isr_interrupts_and_changes_the_generation() {
    let guest = Guest::running();
    let generation = guest.read(21, 1);
    guest
        .device
        .config
        .store(0x1122_3344_5566_7788, Ordering::SeqCst);
    guest.device.active(|a| a.signals.config_changed()).unwrap();
    assert_eq!(guest.wires.take_sent(), [message(0x40)]);
    assert_eq!((guest.read(0x1000, 1), guest.read(0x1000, 1)), (2, 0));
    assert_eq!(guest.read(21, 1), generation);
    assert_eq!(guest.read(0x2000, 8), 0x1122_3344_5566_7788);
    assert_eq!(guest.read(21, 1), generation + 1);
}

#[test]
fn device_config_beyond_its_end_reads_zero_and_cannot_be_written() {
    let guest = Guest::enabled();
    guest.write(0x2000, &[0xff; 8]);
    assert_eq!((guest.read(0x2000, 8), guest.read(0x2008, 8)), (0, 0));
    guest.device.config.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(guest.read(0x2004, 8), 0xffff_ffff);
}

#[test]
fn device_config_that_is_written_reaches_the_device_byte_for_byte() {
    let guest = Guest::enabled();
    guest.write(0x2000, &[0x11]);
    guest.write(0x2001, &[1]);
    let written = guest.device.written.lock().unwrap();
    assert_eq!(*written, [(0, vec![0x11]), (1, vec![1])]);
}

/// Through the window in configuration space.
fn window(guest: &Guest, offset: u32, length: u32) -> usize {
    let at = guest.vendor(5);
    guest.config_write(at + 4, &[0]);
    guest.config_write(at + 8, &offset.to_le_bytes());
    guest.config_write(at + 12, &length.to_le_bytes());
    at + 16
}

#[test]
fn window_in_configuration_space_reads_and_writes_registers() {
    let guest = Guest::fresh();
    let data = window(&guest, 20, 1);
    guest.config_write(data, &[3]);
    assert_eq!(guest.config_read(data, 1), [3]);
    let data = window(&guest, 18, 2);
    assert_eq!(guest.config_read(data, 2), [2, 0]);
    let data = window(&guest, 0x3004, 2);
    guest.config_write(data, &[1, 0]);
    assert!(guest.device.notified.lock().unwrap().is_empty());
}

#[test]
fn window_to_nowhere_does_nothing() {
    let guest = Guest::fresh();
    for (offset, length) in [
        (20, 3),
        (20, 0),
        (21, 2),
        (0xffff, 2),
        (0x1_0000, 1),
        (u32::MAX, 4),
    ] {
        let data = window(&guest, offset, length);
        guest.config_write(data, &[3, 3, 3, 3]);
        guest.config_read(data, 4);
    }
    let data = window(&guest, 20, 1);
    guest.config_write(guest.vendor(5) + 4, &[1]);
    guest.config_write(data, &[3]);
    guest.config_write(guest.vendor(5) + 4, &[0]);
    assert_eq!(guest.config_read(data, 1), [0]);
}

#[test]
fn access_of_any_width_at_any_offset_does_no_harm() {
    let guest = Guest::running();
    for offset in (0..layout::BAR_LEN_BYTES).filter(|at| at % 0x1000 < 0x60 || at % 0x1000 > 0xff0)
    {
        for len in [0, 1, 2, 3, 4, 7, 8, 16, 64] {
            let mut data = vec![0; len];
            guest.function.registers.read(offset, &mut data);
            guest.function.registers.write(offset, &vec![0xa5; len]);
        }
    }
    for offset in 0..4100 {
        for len in 1..=4 {
            guest.config_write(offset, &vec![0xa5; len]);
            guest.config_read(offset, len);
        }
    }
}

/// Whatever a driver does in whatever order: eventfds are never assigned or registered twice, the
/// device is never activated twice or reset without activation (the fakes assert that), and after a
/// reset everything works again.
#[test]
fn random_schedule_leaves_a_device_that_works() {
    let mut random = Random(0x00c0_ffee);
    for _ in 0..60 {
        let guest = Guest::running();
        for _ in 0..400 {
            step(&guest, &mut random);
        }
        guest.config_write(COMMAND, &[0, 0]);
        guest.config_write(BAR0, &0_u32.to_le_bytes());
        guest.config_write(BAR0 + 4, &0x100_u32.to_le_bytes());
        guest.config_write(COMMAND, &[6, 0]);
        guest.config_write(guest.msix() + 2, &[0, 0x80]);
        guest.write8(20, 0);
        guest.device.finish_reset();
        assert_eq!(guest.status(), 0);
        guest.program(1, 0x77);
        guest.mask(1, false);
        guest.negotiate(OFFERED);
        guest.set_up_queue(0, 64, 1);
        guest.write8(20, 0xf);
        guest.wires.take_sent();
        guest.call(0);
        assert_eq!(guest.wires.take_sent(), [message(0x77)]);
        assert!(guest.wires.doorbells().contains(&(BASE + 0x3000)));
    }
}

/// One thing that a driver or the device's process might do.
fn step(guest: &Guest, random: &mut Random) {
    let value = random.next().to_le_bytes();
    let len = [1, 2, 4, 8][random.below(4) as usize];
    let small = [random.below(16) as u8, 0, 0, 0, 0, 0, 0, 0];
    let data = if random.below(2) == 0 {
        &small[..len]
    } else {
        &value[..len]
    };
    match random.below(16) {
        0..=5 => guest.write(random.below(56) & !1, data),
        6 => guest.write(20, &[[0, 1, 3, 0xb, 0xf, 0x80][random.below(6) as usize]]),
        7..=8 => guest.write(layout::MSIX_TABLE + 4 * random.below(14), data),
        9 => guest.write(layout::NOTIFY + random.below(16), data),
        10 => guest.config_write(COMMAND, &[random.below(8) as u8, 0]),
        11 => guest.config_write(guest.msix() + 2, &[0, value[0]]),
        12 => guest.config_write(4 * random.below(64) as usize, &value[..4]),
        13 => guest.negotiate(OFFERED),
        14 => drop(guest.read(random.below(layout::BAR_LEN_BYTES), len)),
        _ => from_the_device(guest, random),
    }
}

fn from_the_device(guest: &Guest, random: &mut Random) {
    guest
        .device
        .drains_slowly
        .store(random.below(2) == 0, Ordering::SeqCst);
    guest.device.finish_reset();
    let activation = guest.device.activation.lock().unwrap();
    let Some(activation) = activation.as_ref() else {
        return;
    };
    match (random.below(4), activation.queues.first()) {
        (0, _) => activation.signals.needs_reset(),
        (1, _) => activation.signals.config_changed(),
        (2, Some(queue)) => activation.signals.used_buffers(queue.index),
        (_, Some(queue)) => guest.wires.call(&queue.events.call),
        _ => {}
    }
}
