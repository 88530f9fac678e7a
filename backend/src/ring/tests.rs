// SPDX-License-Identifier: Apache-2.0
use super::*;
use vm_memory::Bytes;

const DESC: GuestAddress = GuestAddress(0x1000);
const AVAIL: GuestAddress = GuestAddress(0x2000);
const USED: GuestAddress = GuestAddress(0x3000);

fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x4000)]).unwrap())
}

fn layout(event_idx: bool) -> Layout {
    Layout {
        size: 8,
        desc: DESC,
        avail: AVAIL,
        used: USED,
        event_idx,
    }
}

fn write_u16(memory: &GuestMemory, base: GuestAddress, offset: u64, value: u16) {
    memory
        .write_obj(value.to_le(), GuestAddress(base.0 + offset))
        .unwrap();
}

fn read_u16(memory: &GuestMemory, base: GuestAddress, offset: u64) -> u16 {
    u16::from_le(memory.read_obj(GuestAddress(base.0 + offset)).unwrap())
}

#[test]
fn ring_misaligned_outside_or_oddly_sized_is_refused() {
    let memory = memory();
    let bad = [
        Layout {
            size: 0,
            ..layout(false)
        },
        Layout {
            size: 6,
            ..layout(false)
        },
        Layout {
            desc: GuestAddress(0x1008),
            ..layout(false)
        },
        Layout {
            avail: GuestAddress(0x2001),
            ..layout(false)
        },
        Layout {
            used: GuestAddress(0x3002),
            ..layout(false)
        },
        Layout {
            used: GuestAddress(0x4ffc),
            ..layout(false)
        },
        Layout {
            desc: GuestAddress(u64::MAX - 15),
            ..layout(false)
        },
    ];
    for layout in bad {
        assert!(Ring::attach(&memory, layout, 0).is_err(), "{layout:?}");
    }
}

#[test]
fn available_index_further_ahead_than_the_queue_is_long_is_refused() {
    let memory = memory();
    write_u16(&memory, AVAIL, 2, 8);
    let ring = Ring::attach(&memory, layout(false), 0).unwrap();
    assert_eq!(ring.available().unwrap(), 8);
    write_u16(&memory, AVAIL, 2, 9);
    assert!(matches!(ring.available(), Err(RingError::Overrun(9))));
}

#[test]
fn heads_that_are_known_are_looked_for_again_only_when_they_run_out() {
    let memory = memory();
    write_u16(&memory, AVAIL, 2, 2);
    let mut ring = Ring::attach(&memory, layout(false), 0).unwrap();
    assert_eq!(ring.known().unwrap(), 2);
    ring.take().unwrap();
    write_u16(&memory, AVAIL, 2, 3);
    assert_eq!(ring.known().unwrap(), 1);
    ring.take().unwrap();
    assert_eq!(ring.known().unwrap(), 1);
    write_u16(&memory, AVAIL, 2, 5);
    assert_eq!(ring.available().unwrap(), 3);
    ring.take().unwrap();
    ring.take().unwrap();
    assert_eq!(ring.known().unwrap(), 1);
    write_u16(&memory, AVAIL, 2, 3);
    ring.set_next_avail(0);
    assert_eq!(ring.known().unwrap(), 3);
    write_u16(&memory, AVAIL, 2, 9);
    ring.set_next_avail(0);
    assert!(matches!(ring.known(), Err(RingError::Overrun(9))));
}

#[test]
fn head_outside_the_table_is_refused() {
    let memory = memory();
    write_u16(&memory, AVAIL, 4, 8);
    let mut ring = Ring::attach(&memory, layout(false), 0).unwrap();
    assert!(matches!(ring.take(), Err(RingError::Head(8))));
}

#[test]
fn batch_is_invisible_until_published_across_the_index_wrap() {
    let memory = memory();
    write_u16(&memory, USED, 2, 0xffff);
    let mut ring = Ring::attach(&memory, layout(false), 0xffff).unwrap();
    ring.push_used(3, 1);
    ring.push_used(5, 513);
    assert_eq!(read_u16(&memory, USED, 2), 0xffff);
    ring.publish();
    assert_eq!(read_u16(&memory, USED, 2), 1);
    assert_eq!(read_u16(&memory, USED, 4 + 7 * 8), 3);
    assert_eq!(read_u16(&memory, USED, 4), 5);
    assert_eq!(read_u16(&memory, USED, 8), 513);
}

#[test]
fn call_with_event_idx_is_due_exactly_when_used_event_is_passed() {
    let memory = memory();
    let used_event = 4 + 2 * 8;
    let mut ring = Ring::attach(&memory, layout(true), 0).unwrap();
    write_u16(&memory, AVAIL, used_event, 1);
    ring.push_used(0, 0);
    ring.publish();
    assert!(!ring.needs_call());
    ring.push_used(1, 0);
    ring.push_used(2, 0);
    ring.publish();
    assert!(ring.needs_call());
    assert!(!ring.needs_call());
}

#[test]
fn call_without_event_idx_follows_the_flag() {
    let memory = memory();
    let mut ring = Ring::attach(&memory, layout(false), 0).unwrap();
    ring.push_used(0, 0);
    assert!(ring.needs_call());
    write_u16(&memory, AVAIL, 0, NO_INTERRUPT);
    ring.push_used(1, 0);
    assert!(!ring.needs_call());
}

#[test]
fn kicks_are_asked_for_from_the_next_entry_and_a_stale_flag_is_cleared() {
    let memory = memory();
    write_u16(&memory, USED, 0, NO_NOTIFY);
    let ring = Ring::attach(&memory, layout(true), 6).unwrap();
    ring.enable_kicks();
    assert_eq!(read_u16(&memory, USED, 0), 0);
    assert_eq!(read_u16(&memory, USED, 4 + 8 * 8), 6);
}
