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

#[test]
fn ring_s_parts_are_as_long_as_the_specification_has_them() {
    let memory = memory();
    let ring = Ring::attach(&memory, layout(true), 0).unwrap();
    assert_eq!(ring.descriptors().len_bytes(), 16 * 8);
    assert_eq!(ring.avail.len_bytes(), 2 + 2 + 2 * 8 + 2);
    assert_eq!(ring.used.len_bytes(), 2 + 2 + 8 * 8 + 2);
}

#[test]
fn ring_must_be_aligned_for_the_guest_and_for_us() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0x1008), 0x4000)]).unwrap();
    let memory = Arc::new(memory);
    let at = |desc| {
        let desc = GuestAddress(desc);
        let layout = Layout {
            desc,
            ..layout(false)
        };
        Ring::attach(&memory, layout, 0).err().unwrap()
    };
    // The first byte of the region is at the beginning of a page of ours.
    for desc in [0x1008, 0x1010] {
        let misaligned = at(desc);
        assert!(
            matches!(misaligned, RingError::Misaligned { address, .. } if address == desc),
            "{desc:#x}: {misaligned}"
        );
    }
}

#[test]
fn ring_may_have_32768_descriptors() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
    let layout = Layout {
        size: 1 << 15,
        desc: GuestAddress(0),
        avail: GuestAddress(0x8_0000),
        used: GuestAddress(0xa_0000),
        event_idx: true,
    };
    let ring = Ring::attach(&Arc::new(memory), layout, 0).unwrap();
    assert_eq!(ring.size(), 1 << 15);
}

#[test]
fn ring_goes_on_behind_what_is_published() {
    let memory = memory();
    write_u16(&memory, USED, 2, 0x1234);
    let mut ring = Ring::attach(&memory, layout(false), 7).unwrap();
    let published = || read_u16(&memory, USED, 2);
    let positions = |ring: &Ring| (ring.next_avail(), published(), ring.next_used());
    assert_eq!(positions(&ring), (7, 0x1234, 0x1234));
    assert!(!ring.needs_call(), "nothing was added");
    ring.push_used(0, 0);
    assert_eq!(positions(&ring), (7, 0x1234, 0x1235));
    ring.publish();
    assert_eq!(positions(&ring), (7, 0x1235, 0x1235));
    ring.set_next_avail(9);
    assert_eq!(positions(&ring), (9, 0x1235, 0x1235));
}

#[test]
fn heads_are_taken_in_the_order_of_the_ring_across_the_index_wrap() {
    let memory = memory();
    let heads = [4, 7, 0, 2, 6, 1, 5, 3];
    for (slot, head) in (0..).zip(heads) {
        write_u16(&memory, AVAIL, 4 + 2 * slot, head);
    }
    let mut ring = Ring::attach(&memory, layout(false), 0xfffd).unwrap();
    write_u16(&memory, AVAIL, 2, 5);
    assert_eq!(ring.known().unwrap(), 8);
    let taken: Vec<u16> = (0..8).map(|_| ring.take().unwrap()).collect();
    assert_eq!(taken, [1, 5, 3, 4, 7, 0, 2, 6]);
    assert_eq!((ring.next_avail(), ring.known().unwrap()), (5, 0));
}

#[test]
fn descriptor_is_read_field_by_field() {
    let memory = memory();
    for index in 0..8_u16 {
        let at = DESC.0 + 16 * u64::from(index);
        let number = u64::from(index) + 1;
        let put = |value: u64, offset| memory.write_obj(value, GuestAddress(at + offset));
        put(0x0102_0304_0506_0708 * number, 0).unwrap();
        put((0x0003 << 48) | (0x0005 << 32) | (0x1234_5600 + number), 8).unwrap();
    }
    let ring = Ring::attach(&memory, layout(false), 0).unwrap();
    for index in 0..8_u16 {
        let number = index + 1;
        let expected = Descriptor {
            address: 0x0102_0304_0506_0708 * u64::from(number),
            len_bytes: 0x1234_5600 + u32::from(number),
            flags: 5,
            next: 3,
        };
        assert_eq!(Descriptor::read(ring.descriptors(), index), expected);
    }
}

#[test]
fn call_with_event_idx_is_due_for_each_place_that_a_batch_passes() {
    const BATCH: u16 = 3;
    for old in [0_u16, 5, 0xfffe, 0xffff] {
        for (ahead, is_due) in [(0, true), (1, true), (2, true), (3, false), (0xffff, false)] {
            let memory = memory();
            write_u16(&memory, USED, 2, old);
            let mut ring = Ring::attach(&memory, layout(true), 0).unwrap();
            write_u16(&memory, AVAIL, 4 + 2 * 8, old.wrapping_add(ahead));
            (0..BATCH).for_each(|head| ring.push_used(head, 0));
            ring.publish();
            assert_eq!(ring.needs_call(), is_due, "{ahead} from {old:#x}");
        }
    }
}

#[test]
fn call_without_event_idx_depends_on_one_flag_alone() {
    let memory = memory();
    let mut ring = Ring::attach(&memory, layout(false), 0).unwrap();
    for (flags, is_due) in [(!NO_INTERRUPT, true), (0xffff, false)] {
        write_u16(&memory, AVAIL, 0, flags);
        ring.push_used(0, 0);
        assert_eq!(ring.needs_call(), is_due, "{flags:#x}");
    }
}

#[test]
fn kicks_are_not_asked_for_by_the_flag_only_without_event_idx() {
    for (event_idx, flag) in [(false, NO_NOTIFY), (true, 0)] {
        let memory = memory();
        let ring = Ring::attach(&memory, layout(event_idx), 6).unwrap();
        ring.disable_kicks();
        assert_eq!(read_u16(&memory, USED, 0), flag);
        assert_eq!(read_u16(&memory, USED, 4 + 8 * 8), 0);
        ring.enable_kicks();
        assert_eq!(read_u16(&memory, USED, 0), 0);
        let event = if event_idx { 6 } else { 0 };
        assert_eq!(read_u16(&memory, USED, 4 + 8 * 8), event);
    }
}
