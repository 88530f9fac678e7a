// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::ring::Layout;
use vm_memory::Bytes;

const TABLE: u64 = 0x4000;

/// A queue of four descriptors, with an indirect table at TABLE.
struct Queue {
    memory: Arc<GuestMemory>,
    ring: Ring,
}

impl Queue {
    fn new() -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x8000)]).unwrap();
        let memory = Arc::new(memory);
        let layout = Layout {
            size: 4,
            desc: GuestAddress(0x1000),
            avail: GuestAddress(0x2000),
            used: GuestAddress(0x3000),
            event_idx: false,
        };
        let ring = Ring::attach(&memory, layout, 0).unwrap();
        Self { memory, ring }
    }

    fn set(&self, table: u64, index: u64, address: u64, len_bytes: u32, flags: u16, next: u16) {
        let at = table + 16 * index;
        let memory = &self.memory;
        memory.write_obj(address, GuestAddress(at)).unwrap();
        memory.write_obj(len_bytes, GuestAddress(at + 8)).unwrap();
        memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    fn walk(&self) -> Result<Chain, ChainError> {
        let mut chain = Chain::default();
        chain
            .walk(&self.ring, &self.memory, 0, true)
            .map(|()| chain)
    }
}

fn buffer(address: u64, len_bytes: u32) -> Buffer {
    let address = GuestAddress(address);
    Buffer { address, len_bytes }
}

#[test]
fn chain_well_formed_is_collected_in_order() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, 16, NEXT, 2);
    queue.set(0x1000, 2, 0x20, 512, NEXT | WRITE, 1);
    queue.set(0x1000, 1, 0x30, 1, WRITE, 77);
    let chain = queue.walk().unwrap();
    assert_eq!(chain.readable, [buffer(0x10, 16)]);
    assert_eq!(chain.writable, [buffer(0x20, 512), buffer(0x30, 1)]);
}

#[test]
fn chain_indirect_is_collected_and_its_write_flag_ignored() {
    let queue = Queue::new();
    queue.set(0x1000, 0, TABLE, 32, INDIRECT | WRITE, 0);
    queue.set(TABLE, 0, 0x10, 16, NEXT, 1);
    queue.set(TABLE, 1, 0x20, 1, WRITE, 0);
    let chain = queue.walk().unwrap();
    assert_eq!(chain.readable, [buffer(0x10, 16)]);
    assert_eq!(chain.writable, [buffer(0x20, 1)]);
}

#[test]
fn chain_that_loops_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, 1, NEXT, 1);
    queue.set(0x1000, 1, 0x10, 1, NEXT, 0);
    assert!(matches!(queue.walk(), Err(ChainError::TooLong)));
}

#[test]
fn chain_that_loops_in_an_indirect_table_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, TABLE, 32, INDIRECT, 0);
    queue.set(TABLE, 0, 0x10, 1, NEXT, 1);
    queue.set(TABLE, 1, 0x10, 1, NEXT, 0);
    assert!(matches!(queue.walk(), Err(ChainError::TooLong)));
}

#[test]
fn chain_that_leaves_its_table_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, 1, NEXT, 4);
    assert!(matches!(queue.walk(), Err(ChainError::Index(4))));
    queue.set(0x1000, 0, TABLE, 16, INDIRECT, 0);
    queue.set(TABLE, 0, 0x10, 1, NEXT, 1);
    assert!(matches!(queue.walk(), Err(ChainError::Index(1))));
}

#[test]
fn chain_of_more_than_4_gib_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, u32::MAX, NEXT, 1);
    queue.set(0x1000, 1, 0x10, 1, 0, 0);
    assert!(matches!(queue.walk(), Err(ChainError::TooLarge)));
}

#[test]
fn chain_with_readable_behind_writable_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, 16, NEXT | WRITE, 1);
    queue.set(0x1000, 1, 0x20, 16, 0, 0);
    assert!(matches!(queue.walk(), Err(ChainError::Order)));
}

#[test]
fn chain_indirect_without_the_feature_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, TABLE, 16, INDIRECT, 0);
    let mut chain = Chain::default();
    let outcome = chain.walk(&queue.ring, &queue.memory, 0, false);
    assert!(matches!(outcome, Err(ChainError::NotNegotiated)));
}

#[test]
fn chain_indirect_with_next_or_nested_is_refused() {
    let queue = Queue::new();
    queue.set(0x1000, 0, TABLE, 16, INDIRECT | NEXT, 1);
    assert!(matches!(queue.walk(), Err(ChainError::IndirectNext)));
    queue.set(0x1000, 0, TABLE, 16, INDIRECT, 0);
    queue.set(TABLE, 0, TABLE, 16, INDIRECT, 0);
    assert!(matches!(queue.walk(), Err(ChainError::Nested)));
}

#[test]
fn chain_indirect_table_of_impossible_length_or_place_is_refused() {
    let queue = Queue::new();
    for len_bytes in [0, 15, 17, 16 * 5, u32::MAX] {
        queue.set(0x1000, 0, TABLE, len_bytes, INDIRECT, 0);
        assert!(matches!(queue.walk(), Err(ChainError::TableLength(_))));
    }
    for address in [0, 0x8ff8, u64::MAX - 15] {
        queue.set(0x1000, 0, address, 16, INDIRECT, 0);
        assert!(matches!(queue.walk(), Err(ChainError::TableOutside(_))));
    }
    queue.set(0x1000, 0, TABLE + 4, 16, INDIRECT, 0);
    assert!(matches!(queue.walk(), Err(ChainError::TableMisaligned(_))));
}

#[test]
fn chain_may_be_as_long_as_the_queue() {
    let queue = Queue::new();
    queue.set(0x1000, 0, TABLE, 64, INDIRECT, 0);
    for index in 0..4 {
        let next = u16::try_from(index + 1).unwrap();
        let flags = if index < 3 { NEXT } else { 0 };
        queue.set(TABLE, index, 0x10, 1, flags, next);
    }
    assert_eq!(queue.walk().unwrap().readable.len(), 4);
}

#[test]
fn chain_without_a_table_may_be_as_long_as_the_queue() {
    let queue = Queue::new();
    for (index, next) in [(0, 1), (1, 2), (2, 3)] {
        queue.set(0x1000, index, 0x10, 1, NEXT, next);
    }
    queue.set(0x1000, 3, 0x10, 1, 0, 0);
    assert_eq!(queue.walk().unwrap().readable.len(), 4);
}

#[test]
fn chain_that_ends_in_a_table_is_counted_with_its_entries() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, 1, NEXT, 1);
    queue.set(0x1000, 1, TABLE, 64, INDIRECT, 0);
    for (index, next) in [(0, 1), (1, 2), (2, 3)] {
        queue.set(TABLE, index, 0x20, 1, NEXT, next);
    }
    queue.set(TABLE, 2, 0x20, 1, 0, 0);
    assert_eq!(queue.walk().unwrap().readable.len(), 4);
    queue.set(TABLE, 2, 0x20, 1, NEXT, 3);
    queue.set(TABLE, 3, 0x20, 1, 0, 0);
    assert!(matches!(queue.walk(), Err(ChainError::TooLong)));
}

#[test]
fn chain_s_buffers_of_no_bytes_are_left_out() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, 0, NEXT, 1);
    queue.set(0x1000, 1, 0x20, 1, NEXT, 2);
    queue.set(0x1000, 2, 0x30, 0, WRITE, 0);
    let chain = queue.walk().unwrap();
    assert_eq!(chain.readable, [buffer(0x20, 1)]);
    assert_eq!(chain.writable, []);
}

#[test]
fn chain_walked_after_another_has_nothing_of_it() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x10, u32::MAX - 1, NEXT, 1);
    queue.set(0x1000, 1, 0x20, 1, WRITE, 0);
    let mut chain = Chain::default();
    for _ in 0..2 {
        chain.walk(&queue.ring, &queue.memory, 0, true).unwrap();
        assert_eq!(chain.readable, [buffer(0x10, u32::MAX - 1)]);
        assert_eq!(chain.writable, [buffer(0x20, 1)]);
    }
}

#[test]
fn chain_indirect_table_must_be_in_guest_memory_as_a_whole() {
    let queue = Queue::new();
    queue.set(0x1000, 0, 0x8fc0, 64, INDIRECT, 0);
    queue.set(0x8fc0, 0, 0x10, 1, NEXT, 3);
    queue.set(0x8fc0, 3, 0x20, 1, 0, 0);
    let chain = queue.walk().unwrap();
    assert_eq!(chain.readable, [buffer(0x10, 1), buffer(0x20, 1)]);
    for address in [0x8fd0, 0x8fe0, 0x8ff0] {
        queue.set(0x1000, 0, address, 64, INDIRECT, 0);
        assert!(matches!(queue.walk(), Err(ChainError::TableOutside(_))));
    }
}
