// SPDX-License-Identifier: Apache-2.0

#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

use super::*;
use crate::virtio::features::VERSION_1;

const OFFERED: u64 = VERSION_1 | 0b101;

fn config() -> CommonConfig {
    CommonConfig::new(&[256, 128], 3)
}

fn read<const N: usize>(config: &CommonConfig, offset: usize) -> [u8; N] {
    config.image(OFFERED)[offset..offset + N]
        .try_into()
        .unwrap()
}

fn read16(config: &CommonConfig, offset: usize) -> u16 {
    u16::from_le_bytes(read(config, offset))
}

fn read32(config: &CommonConfig, offset: usize) -> u32 {
    u32::from_le_bytes(read(config, offset))
}

fn write16(config: &mut CommonConfig, offset: u64, value: u16) -> Effect {
    config.write(offset, &value.to_le_bytes(), OFFERED)
}

fn write32(config: &mut CommonConfig, offset: u64, value: u32) -> Effect {
    config.write(offset, &value.to_le_bytes(), OFFERED)
}

fn write_status(config: &mut CommonConfig, value: u8) -> (Effect, u8) {
    let effect = config.write(20, &[value], OFFERED);
    (effect, read::<1>(config, 20)[0])
}

fn accept(config: &mut CommonConfig, features: u64) {
    for select in [0, 1] {
        write32(config, 8, select);
        write32(config, 12, (features >> (32 * select)) as u32);
    }
}

/// FEATURES_OK with everything accepted.
fn negotiated() -> CommonConfig {
    let mut config = config();
    write_status(&mut config, 1);
    write_status(&mut config, 3);
    accept(&mut config, OFFERED);
    assert_eq!(write_status(&mut config, 0xb), (Effect::None, 0xb));
    config
}

fn place_queue(config: &mut CommonConfig) {
    for (offset, value) in [(32, 0x1000), (40, 0x2000), (48, 0x3000)] {
        write32(config, offset, value);
    }
}

#[test]
fn device_feature_shows_the_window_selected_and_zero_beyond() {
    let mut config = config();
    for (select, expected) in [(0, 0b101), (1, 1), (2, 0), (u32::MAX, 0)] {
        write32(&mut config, 0, select);
        assert_eq!(read32(&config, 4), expected);
    }
    write32(&mut config, 4, 0xffff_ffff);
    assert_eq!(read32(&config, 4), 0);
}

#[test]
fn driver_feature_reads_back_what_was_written() {
    let mut config = config();
    accept(&mut config, OFFERED);
    for (select, expected) in [(0, 0b101), (1, 1), (2, 0)] {
        write32(&mut config, 8, select);
        assert_eq!(read32(&config, 12), expected);
    }
}

#[test]
fn driver_feature_written_again_has_nothing_of_what_was_there() {
    let mut config = config();
    accept(&mut config, 0xa5a5_a5a5_5a5a_5a5a);
    accept(&mut config, 0x0ff0_0ff0_f00f_f00f);
    for (select, expected) in [(0, 0xf00f_f00f), (1, 0x0ff0_0ff0)] {
        write32(&mut config, 8, select);
        assert_eq!(read32(&config, 12), expected);
    }
}

#[test]
fn driver_feature_of_a_window_that_does_not_exist_is_ignored() {
    let mut config = config();
    write32(&mut config, 8, 7);
    write32(&mut config, 12, 0xffff_ffff);
    for select in [0, 1, 7] {
        write32(&mut config, 8, select);
        assert_eq!(read32(&config, 12), 0);
    }
}

#[test]
fn features_ok_with_a_bit_not_offered_is_refused() {
    let mut config = config();
    write_status(&mut config, 3);
    accept(&mut config, OFFERED | 0b10);
    assert_eq!(write_status(&mut config, 0xb), (Effect::None, 3));
}

#[test]
fn features_ok_without_version_1_is_refused() {
    let mut config = config();
    write_status(&mut config, 3);
    accept(&mut config, 0b101);
    assert_eq!(write_status(&mut config, 0xb), (Effect::None, 3));
}

#[test]
fn features_ok_refused_can_be_tried_again_with_fewer() {
    let mut config = config();
    write_status(&mut config, 3);
    accept(&mut config, OFFERED | 0b10);
    write_status(&mut config, 0xb);
    accept(&mut config, VERSION_1);
    assert_eq!(write_status(&mut config, 0xb), (Effect::None, 0xb));
}

#[test]
fn features_after_features_ok_are_ignored() {
    let mut config = negotiated();
    accept(&mut config, 0);
    write32(&mut config, 8, 0);
    assert_eq!(read32(&config, 12), 0b101);
}

#[test]
fn driver_ok_before_features_ok_is_ignored() {
    let mut config = config();
    accept(&mut config, OFFERED);
    assert_eq!(write_status(&mut config, 7), (Effect::None, 3));
    // Nor does it count when it comes together with FEATURES_OK.
    assert_eq!(write_status(&mut config, 0xf), (Effect::None, 0xb));
    assert_eq!(config.take_start(), None);
}

#[test]
fn driver_ok_starts_once_with_the_enabled_queues() {
    let mut config = negotiated();
    write16(&mut config, 22, 1);
    place_queue(&mut config);
    assert_eq!(write16(&mut config, 28, 1), Effect::Enabled(QueueIndex(1)));
    assert_eq!(write_status(&mut config, 0xf), (Effect::Start, 0xf));
    let (features, queues) = config.take_start().unwrap();
    assert_eq!((features, queues.len()), (OFFERED, 1));
    assert_eq!((queues[0].0, queues[0].1.size()), (QueueIndex(1), 128));
    assert_eq!(write_status(&mut config, 0xf), (Effect::None, 0xf));
    assert_eq!(config.take_start(), None);
}

#[test]
fn status_bits_cannot_be_cleared_but_all_at_once() {
    let mut config = negotiated();
    assert_eq!(write_status(&mut config, 1), (Effect::None, 0xb));
    assert_eq!(write_status(&mut config, 0x80), (Effect::None, 0x8b));
    assert_eq!(write_status(&mut config, 0), (Effect::Reset, 0x8b));
}

#[test]
fn status_bits_reserved_or_the_device_s_own_are_ignored() {
    let mut config = config();
    assert_eq!(write_status(&mut config, 0x70), (Effect::None, 0));
}

#[test]
fn status_stays_nonzero_and_writes_are_ignored_until_reset_is_finished() {
    let mut config = negotiated();
    write_status(&mut config, 0);
    assert_eq!(write_status(&mut config, 0), (Effect::None, 0xb));
    assert_eq!(write_status(&mut config, 0xf), (Effect::None, 0xb));
    assert_eq!(write16(&mut config, 28, 1), Effect::None);
    config.finish_reset();
    assert_eq!(write_status(&mut config, 1), (Effect::None, 1));
}

#[test]
fn reset_restores_every_field() {
    let mut config = negotiated();
    let fresh = self::config().image(OFFERED);
    write16(&mut config, 16, 1);
    write16(&mut config, 24, 16);
    write16(&mut config, 26, 2);
    place_queue(&mut config);
    write16(&mut config, 28, 1);
    write_status(&mut config, 0xf);
    config.take_start();
    write_status(&mut config, 0);
    config.finish_reset();
    assert_eq!(config.image(OFFERED), fresh);
    assert!(!config.is_started() && !config.is_resetting());
}

#[test]
fn num_queues_and_notify_off_are_the_device_s_to_say() {
    let mut config = negotiated();
    write16(&mut config, 18, 7);
    write16(&mut config, 30, 7);
    assert_eq!((read16(&config, 18), read16(&config, 30)), (2, 0));
    write16(&mut config, 22, 1);
    assert_eq!(read16(&config, 30), 1);
}

#[test]
fn queue_that_does_not_exist_reads_size_zero_and_takes_nothing() {
    let mut config = negotiated();
    write16(&mut config, 22, 2);
    assert_eq!(read16(&config, 24), 0);
    for offset in [24, 26, 28] {
        assert_eq!(write16(&mut config, offset, 1), Effect::None);
    }
    place_queue(&mut config);
    assert_eq!(read::<32>(&config, 24)[4..], [0; 28]);
}

#[test]
fn queue_size_takes_powers_of_two_up_to_the_maximum() {
    let mut config = negotiated();
    assert_eq!(read16(&config, 24), 256);
    for (written, expected) in [(128, 128), (0, 128), (100, 128), (512, 128), (1, 1)] {
        write16(&mut config, 24, written);
        assert_eq!(read16(&config, 24), expected);
    }
}

#[test]
fn queue_addresses_take_halves_in_any_order_and_whole_quadwords() {
    let mut config = negotiated();
    write32(&mut config, 36, 0x1234_5678);
    write32(&mut config, 32, 0x9abc_def0);
    assert_eq!(read(&config, 32), 0x1234_5678_9abc_def0_u64.to_le_bytes());
    config.write(40, &0x1122_3344_5566_7788_u64.to_le_bytes(), OFFERED);
    assert_eq!(read(&config, 40), 0x1122_3344_5566_7788_u64.to_le_bytes());
    config.write(36, &[0xff; 8], OFFERED);
    assert_eq!(read(&config, 32), 0x1234_5678_9abc_def0_u64.to_le_bytes());
}

#[test]
fn queue_address_written_again_has_nothing_of_what_was_there() {
    let mut config = negotiated();
    for offset in [32, 40, 48] {
        for value in [0xa5a5_a5a5_5a5a_5a5a_u64, 0x0ff0_0ff0_f00f_f00f] {
            config.write(offset, &value.to_le_bytes(), OFFERED);
            let at = usize::try_from(offset).unwrap();
            assert_eq!(read(&config, at), value.to_le_bytes());
        }
    }
}

#[test]
fn queue_fields_before_features_ok_or_once_enabled_are_frozen() {
    let mut config = config();
    write16(&mut config, 24, 16);
    place_queue(&mut config);
    assert_eq!(write16(&mut config, 28, 1), Effect::None);
    assert_eq!((read16(&config, 24), read32(&config, 32)), (256, 0));
    let mut config = negotiated();
    place_queue(&mut config);
    write16(&mut config, 28, 1);
    write16(&mut config, 24, 16);
    write32(&mut config, 32, 0x8000);
    assert_eq!((read16(&config, 24), read32(&config, 32)), (256, 0x1000));
}

#[test]
fn queue_enable_takes_only_one_and_only_once() {
    let mut config = negotiated();
    place_queue(&mut config);
    for value in [0, 2, 0x101, 0xffff] {
        assert_eq!(write16(&mut config, 28, value), Effect::None);
        assert_eq!(read16(&config, 28), 0);
    }
    assert_eq!(write16(&mut config, 28, 1), Effect::Enabled(QueueIndex(0)));
    assert_eq!(write16(&mut config, 28, 1), Effect::None);
    assert_eq!(write16(&mut config, 28, 0), Effect::None);
    assert_eq!(read16(&config, 28), 1);
}

#[test]
fn queue_enable_after_driver_ok_is_ignored() {
    let mut config = negotiated();
    place_queue(&mut config);
    write_status(&mut config, 0xf);
    assert_eq!(write16(&mut config, 28, 1), Effect::None);
}

#[test]
fn queue_misaligned_cannot_be_enabled() {
    let mut config = negotiated();
    place_queue(&mut config);
    write32(&mut config, 32, 0x1008);
    assert_eq!(write16(&mut config, 28, 1), Effect::None);
    assert_eq!(read16(&config, 28), 0);
}

#[test]
fn vector_valid_reads_back_and_beyond_the_table_is_no_vector() {
    let mut config = config();
    for (offset, effect) in [
        (16, Effect::ConfigVector),
        (26, Effect::QueueVector(QueueIndex(0))),
    ] {
        assert_eq!(read16(&config, offset), NO_VECTOR);
        for (written, expected) in [(2, 2), (3, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)] {
            assert_eq!(write16(&mut config, offset as u64, written), effect);
            assert_eq!(read16(&config, offset), expected);
        }
    }
}

#[test]
fn vector_can_be_shared_by_every_event() {
    let mut config = config();
    write16(&mut config, 16, 1);
    for queue in [0, 1] {
        write16(&mut config, 22, queue);
        write16(&mut config, 26, 1);
        assert_eq!(config.queue_vector(QueueIndex(queue)), Some(1));
    }
    assert_eq!(config.config_vector(), Some(1));
}

#[test]
fn generation_changes_only_when_a_change_was_read() {
    let mut config = config();
    config.config_read();
    assert_eq!(read::<1>(&config, 21), [0]);
    // 256 changes do not bring it back to where it was.
    for _ in 0..256 {
        config.config_changed();
    }
    assert_eq!(read::<1>(&config, 21), [0]);
    config.config_read();
    assert_eq!(read::<1>(&config, 21), [1]);
    config.write(21, &[9], OFFERED);
    config.config_read();
    assert_eq!(read::<1>(&config, 21), [1]);
}

#[test]
fn generation_survives_a_reset() {
    let mut config = config();
    config.config_changed();
    config.config_read();
    write_status(&mut config, 0);
    config.finish_reset();
    assert_eq!(read::<1>(&config, 21), [1]);
}

#[test]
fn generation_changes_for_what_changed_before_a_reset() {
    let mut config = config();
    config.config_changed();
    write_status(&mut config, 0);
    config.finish_reset();
    config.config_read();
    assert_eq!(read::<1>(&config, 21), [1]);
}

#[test]
fn needs_reset_is_told_once_and_only_after_driver_ok() {
    let mut config = negotiated();
    assert!(!config.needs_reset());
    write_status(&mut config, 0);
    config.finish_reset();
    let mut config = negotiated();
    write_status(&mut config, 0xf);
    assert!(config.needs_reset());
    assert!(!config.needs_reset());
    assert_eq!(read::<1>(&config, 20), [0x4f]);
    assert_eq!(write_status(&mut config, 0xf).1, 0x4f);
}

#[test]
fn write_of_the_wrong_width_is_ignored() {
    let fresh = negotiated().image(OFFERED);
    for offset in 0..64 {
        for len in [0, 1, 2, 3, 4, 5, 8, 16] {
            let mut config = negotiated();
            let natural = match offset {
                0 | 8 | 12 | 36 | 44 | 52 => len == 4,
                32 | 40 | 48 => len == 4 || len == 8,
                16 | 22 | 24 | 26 | 28 => len == 2,
                20 => len == 1,
                _ => false,
            };
            config.write(offset, &vec![0x04; len], OFFERED);
            assert!(
                natural || config.image(OFFERED) == fresh,
                "{len} at {offset}"
            );
        }
    }
}
