// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::AtomicU32;

use super::*;

const SIZE: u16 = 8;

fn region() -> SharedMem {
    SharedMem::private(ipc::inflight::queue_bytes(SIZE))
}

fn recover(window: &SharedMem, used_idx: u16) -> Result<Vec<Replay>, InflightError> {
    Region::recover(window.clone(), SIZE, used_idx, true).map(|(_, replays)| replays)
}

/// A region with heads 2 and 5 in flight, in this order, that has settled up to 10.
fn busy() -> SharedMem {
    let window = region();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.fetch(2);
    region.fetch(5);
    window
}

#[test]
fn region_fresh_on_a_queue_that_is_not_new_lost_nothing() {
    let window = region();
    assert_eq!(recover(&window, 1234).unwrap(), []);
    assert_eq!(recover(&window, 1234).unwrap(), []);
}

#[test]
fn requests_in_flight_come_back_in_the_order_they_were_taken() {
    let window = busy();
    let heads: Vec<u16> = recover(&window, 10)
        .unwrap()
        .iter()
        .map(|r| r.head)
        .collect();
    assert_eq!(heads, [2, 5]);
}

#[test]
fn requests_taken_after_a_recovery_come_back_behind_those_before_it() {
    let window = region();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.fetch(5);
    region.fetch(2);
    for (taken, expected) in [
        (1, vec![5, 2, 1]),
        (7, vec![5, 2, 1, 7]),
        (0, vec![5, 2, 1, 7, 0]),
    ] {
        let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
        region.fetch(taken);
        let heads: Vec<u16> = recover(&window, 10)
            .unwrap()
            .iter()
            .map(|r| r.head)
            .collect();
        assert_eq!(heads, expected);
    }
}

#[test]
fn deaths_are_counted_for_what_was_looked_at_up_to_a_limit() {
    let window = busy();
    for death in 1..=CRASH_LIMIT + 2 {
        let (mut region, _) = Region::recover(window.clone(), SIZE, 10, false).unwrap();
        region.try_out(5);
        let replays = recover(&window, 10).unwrap();
        let deaths = death.min(CRASH_LIMIT);
        let replay = |head, deaths| Replay { head, deaths };
        assert_eq!(replays, [replay(2, 0), replay(5, deaths)]);
    }
}

/// A successor of another version reads the same bytes.
#[test]
fn region_is_laid_out_as_the_specification_has_it() {
    let window = region();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 0x1234, true).unwrap();
    region.fetch(2);
    region.fetch(5);
    region.try_out(5);
    region.link(5);
    let byte = |at| window.at::<AtomicU8>(at).load(Relaxed);
    let bytes = |at: usize, len| (at..at + len).map(byte).collect::<Vec<u8>>();
    let (version, descriptors) = ([1, 0], [8, 0]);
    assert_eq!(bytes(0, 8), [0; 8], "no features");
    assert_eq!(bytes(8, 4), [version, descriptors].concat());
    assert_eq!(bytes(12, 4), [5, 0, 0x34, 0x12], "last batch, used index");
    let entry = |head: usize| bytes(16 + 16 * head, 16);
    assert_eq!(entry(2), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(entry(5), [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    region.link(2);
    assert_eq!(entry(2)[6..8], [5, 0], "the one before it in the batch");
    assert_eq!(entry(4), [0; 16]);
}

#[test]
fn request_looked_at_twice_has_been_looked_at() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, false).unwrap();
    (0..2).for_each(|_| region.try_out(5));
    assert_eq!(recover(&window, 10).unwrap()[1].deaths, 1);
}

#[test]
fn requests_absolved_keep_the_deaths_from_before() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.try_out(5);
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.try_out(2);
    region.try_out(5);
    region.absolve();
    let replays = recover(&window, 10).unwrap();
    let deaths: Vec<u8> = replays.iter().map(|replay| replay.deaths).collect();
    assert_eq!(deaths, [0, 1]);
}

#[test]
fn deaths_of_a_request_are_not_those_of_the_next_with_its_head() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.try_out(5);
    let (mut region, replays) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    assert_eq!(replays[1].deaths, 1);
    region.link(5);
    region.settle(&[5], 11);
    assert_eq!(recover(&window, 11).unwrap().len(), 1);
    region.fetch(5);
    let replays = recover(&window, 11).unwrap();
    assert_eq!(replays.iter().map(|r| r.deaths).max(), Some(0));
    let (mut region, _) = Region::recover(window.clone(), SIZE, 11, true).unwrap();
    region.fetch(5);
    region.try_out(5);
    assert_eq!(region.attempts(5).load(Relaxed), 1);
}

#[test]
fn batch_published_and_not_settled_is_settled() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.link(5);
    let heads: Vec<u16> = recover(&window, 11)
        .unwrap()
        .iter()
        .map(|r| r.head)
        .collect();
    assert_eq!(heads, [2]);
    assert_eq!(recover(&window, 11).unwrap().len(), 1);
}

#[test]
fn deaths_that_were_nobodys_fault_are_not_counted() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.try_out(2);
    let (_, replays) = Region::recover(window, SIZE, 10, false).unwrap();
    assert!(replays.iter().all(|replay| replay.deaths == 0));
}

#[test]
fn region_of_another_version_or_queue_is_refused() {
    let window = busy();
    window.at::<AtomicU16>(8).store(2, Relaxed);
    assert_eq!(recover(&window, 10), Err(InflightError::Version(2)));
    let window = busy();
    window.at::<AtomicU16>(10).store(16, Relaxed);
    assert_eq!(recover(&window, 10), Err(InflightError::DescNum(16)));
    assert_eq!(
        recover(&SharedMem::private(64), 0),
        Err(InflightError::Short)
    );
}

#[test]
fn lost_batch_larger_than_the_queue_is_refused() {
    assert_eq!(
        recover(&busy(), 10 + SIZE + 1),
        Err(InflightError::Batch(SIZE + 1))
    );
    assert_eq!(recover(&busy(), 9), Err(InflightError::Batch(0xffff)));
}

#[test]
fn lost_batch_as_large_as_the_queue_is_settled() {
    let window = region();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    (0..SIZE).for_each(|head| region.fetch(head));
    (0..SIZE).for_each(|head| region.link(head));
    assert_eq!(recover(&window, 10 + SIZE).unwrap(), []);
    assert_eq!(recover(&window, 10 + SIZE).unwrap(), []);
}

#[test]
fn batch_settled_is_not_lost() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    region.link(2);
    region.link(5);
    region.settle(&[2, 5], 12);
    region.fetch(2);
    let heads =
        |used_idx| recover(&window, used_idx).map(|all| all.iter().map(|r| r.head).collect());
    assert_eq!(heads(12), Ok(vec![2_u16]));
}

#[test]
fn lost_batch_that_is_no_list_is_refused() {
    let window = busy();
    // Head 0 names itself as the next.
    assert_eq!(recover(&window, 12), Err(InflightError::List));
    let window = busy();
    window.at::<AtomicU16>(12).store(SIZE, Relaxed);
    assert_eq!(recover(&window, 11), Err(InflightError::List));
}

#[test]
fn entry_of_nonsense_is_refused() {
    let window = busy();
    window.at::<AtomicU8>(16 + 16 * 3).store(2, Relaxed);
    assert_eq!(recover(&window, 10), Err(InflightError::Entry));
    let window = busy();
    window
        .at::<AtomicU64>(16 + 16 * 2 + 8)
        .store(u64::MAX, Relaxed);
    assert_eq!(recover(&window, 10), Err(InflightError::Entry));
}

/// Every field of the header and of two entries, with each value that could be a trap: what is
/// accepted holds no head twice and none that does not exist, and recovering it again says the same.
#[test]
fn region_with_any_field_hostile_is_refused_or_makes_sense() {
    let fields = (8..16)
        .step_by(2)
        .chain((16..48).step_by(2))
        .chain([48, 54, 128]);
    let traps = [
        0,
        1,
        2,
        3,
        SIZE - 1,
        SIZE,
        0x00ff,
        0x0100,
        0x0101,
        0x7fff,
        0x8000,
        0xffff,
    ];
    let (mut refused, mut accepted) = (0, 0);
    for field in fields {
        for trap in traps {
            for lost in 0..4 {
                let window = busy();
                window.at::<AtomicU16>(field).store(trap, Relaxed);
                match recover(&window, 10 + lost) {
                    Err(_) => refused += 1,
                    Ok(replays) => {
                        let mut heads: Vec<u16> = replays.iter().map(|r| r.head).collect();
                        heads.sort_unstable();
                        heads.dedup();
                        assert_eq!(heads.len(), replays.len(), "field {field}, {trap:#x}");
                        assert!(heads.iter().all(|head| *head < SIZE));
                        assert_eq!(
                            recover(&window, 10 + lost).map(|r| r.len()),
                            Ok(heads.len())
                        );
                        accepted += 1;
                    }
                }
            }
        }
    }
    println!("{refused} regions refused, {accepted} make sense");
    assert!(refused > 500 && accepted > 100, "{refused} {accepted}");
}

#[test]
fn lost_batch_in_a_cycle_is_refused() {
    let window = busy();
    let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
    for head in [2, 5, 2] {
        region.link(head);
    }
    assert_eq!(recover(&window, 13), Err(InflightError::List));
}

#[test]
fn region_of_random_content_never_panics() {
    let mut random = loadgen::random::Random::new(7);
    for _ in 0..20_000 {
        let window = busy();
        for _ in 0..4 {
            let offset = usize::try_from(random.below(window.len_bytes() as u64 / 4)).unwrap();
            let value = u32::try_from(random.below(1 << 32)).unwrap();
            window.at::<AtomicU32>(4 * offset).store(value, Relaxed);
        }
        let _ = recover(&window, u16::try_from(random.below(32)).unwrap());
    }
}

/// After it was recovered the region is only written: the vmm, which shares it, cannot change what
/// this process takes for being in flight, nor what it writes of it.
#[test]
fn region_overwritten_while_it_is_served_changes_nothing_for_its_owner() {
    for byte in [0, 1, 0xff] {
        let window = busy();
        let (mut region, _) = Region::recover(window.clone(), SIZE, 10, true).unwrap();
        region.fetch(3);
        let overwrite = || {
            for at in 0..window.len_bytes() {
                window.at::<AtomicU8>(at).store(byte, Relaxed);
            }
        };
        overwrite();
        let in_flight = |region: &Region| (0..SIZE).filter(|h| region.is_in_flight(*h)).collect();
        let heads: Vec<u16> = in_flight(&region);
        assert_eq!(heads, [2, 3, 5], "byte {byte:#x}");
        region.try_out(2);
        assert_eq!(region.attempts(2).load(Relaxed), 1, "byte {byte:#x}");
        region.link(5);
        overwrite();
        region.link(3);
        assert_eq!(region.next(3).load(Relaxed), 5_u16.to_le());
        region.settle(&[5, 3], 12);
        overwrite();
        let heads: Vec<u16> = in_flight(&region);
        assert_eq!(heads, [2], "byte {byte:#x}");
    }
}
