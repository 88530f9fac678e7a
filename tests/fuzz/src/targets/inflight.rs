// SPDX-License-Identifier: Apache-2.0
//! Recovery from an in-flight region that anybody may have written: it is refused, or what comes out
//! is a list of different heads, and the same when it is interrupted and done again.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use blk_backend::inflight::{CRASH_LIMIT, Region};
use device_backend::shared_mem::SharedMem;

use crate::script::Script;

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let size = 1 << (script.u8() % 8);
    let (used_idx, crash) = (script.u16(), script.flag());
    let window = SharedMem::private(ipc::inflight::queue_bytes(size));
    // Half of the scripts begin with a header that is not refused at once.
    let header = script.flag();
    for (at, byte) in script.rest().iter().take(window.len_bytes()).enumerate() {
        window.at::<AtomicU8>(at).store(*byte, Relaxed);
    }
    if header {
        let [low, high] = size.to_le_bytes();
        for (at, byte) in [(8, 1), (9, 0), (10, low), (11, high)] {
            window.at::<AtomicU8>(at).store(byte, Relaxed);
        }
    }
    let Ok((mut region, replays)) = Region::recover(window.clone(), size, used_idx, crash) else {
        return;
    };
    let heads: BTreeSet<u16> = replays.iter().map(|replay| replay.head).collect();
    assert_eq!(heads.len(), replays.len(), "a head twice");
    assert!(
        replays
            .iter()
            .all(|r| r.head < size && r.deaths <= CRASH_LIMIT)
    );
    let (_, again) = Region::recover(window.clone(), size, used_idx, false).unwrap();
    assert_eq!(again, replays);
    let scribble = |seed: u16| {
        // The vmm shares the region and writes to it while it is used.
        for (at, byte) in data
            .iter()
            .cycle()
            .skip(usize::from(seed))
            .take(window.len_bytes())
            .enumerate()
        {
            window.at::<AtomicU8>(at).store(*byte, Relaxed);
        }
    };
    work(&mut region, size, &heads, used_idx, scribble);
}

/// Goes on from there as a worker does: whatever the region held, and whatever is written to it
/// meanwhile, its invariants hold now.
fn work(
    region: &mut Region,
    size: u16,
    heads: &BTreeSet<u16>,
    used_idx: u16,
    scribble: impl Fn(u16),
) {
    let done: Vec<u16> = heads.iter().copied().collect();
    for head in &done {
        region.try_out(*head);
        scribble(*head);
        assert!(region.is_in_flight(*head));
        region.link(*head);
    }
    let count = u16::try_from(done.len()).unwrap();
    region.settle(&done, used_idx.wrapping_add(count));
    for head in 0..size {
        scribble(head);
        assert!(!region.is_in_flight(head));
        region.fetch(head);
        scribble(head);
        assert!(region.is_in_flight(head));
    }
}
