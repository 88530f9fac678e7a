// SPDX-License-Identifier: Apache-2.0
//! The crash model: a driver that never dies and a device that dies at every step it can, with
//! nothing between them but the memory that survives.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use loadgen::memory::Memory;
use loadgen::random::Random;
use loadgen::ring::{Descriptor, Ring as DriverRing, RingOptions, WRITE};

use vm_memory::Bytes;

use super::*;
use crate::failpoint::{Crash, arm};

const SIZE: u16 = 8;
const REQUESTS: usize = 20;

/// What outlives the device: guest memory, the driver in it, the region.
struct World {
    memory: Memory,
    driver: DriverRing,
    region: SharedMem,
    /// The request at each head.
    posted: [Option<usize>; SIZE as usize],
    completions: [u32; REQUESTS],
    next: usize,
}

impl World {
    fn new(start: u16) -> Self {
        let mut memory = Memory::new(1 << 20).unwrap();
        let options = RingOptions {
            size: SIZE,
            event_idx: true,
            start,
        };
        let driver = DriverRing::new(&mut memory, options).unwrap();
        for head in 0..SIZE {
            let status = Descriptor {
                address: vm_memory::GuestAddress(0x800),
                len_bytes: 1,
                flags: WRITE,
                next: 0,
            };
            driver.describe(head, status);
        }
        Self {
            memory,
            driver,
            region: SharedMem::private(ipc::inflight::queue_bytes(SIZE)),
            posted: [None; SIZE as usize],
            completions: [0; REQUESTS],
            next: 0,
        }
    }

    /// The driver takes back what is used, and posts what is left to post.
    fn drive(&mut self) {
        while let Some((head, _)) = self.driver.reap().expect("a head was used twice") {
            let request = self.posted[usize::from(head)].take().unwrap();
            self.completions[request] += 1;
        }
        for head in 0..SIZE {
            if self.posted[usize::from(head)].is_none() && self.next < REQUESTS {
                self.posted[usize::from(head)] = Some(self.next);
                self.next += 1;
                self.driver.offer(head);
            }
        }
        self.driver.show();
    }

    fn attach(&self) -> (Queue, Vec<Replay>) {
        let [desc, avail, used] = self.driver.addresses();
        let layout = Layout {
            size: SIZE,
            desc,
            avail,
            used,
            event_idx: true,
        };
        let attach = Attach {
            layout,
            region: self.region.clone(),
            next_avail: None,
            after_crash: true,
            indirect: false,
        };
        Queue::attach(&self.memory.bytes(), attach).unwrap()
    }

    /// One life of a device: until every request is done, or it dies.
    fn live(&mut self, batch: usize) {
        let (mut queue, replays) = self.attach();
        let mut hand: VecDeque<u16> = replays.iter().map(|replay| replay.head).collect();
        loop {
            self.drive();
            while queue.available().unwrap() > 0 {
                hand.push_back(queue.fetch().unwrap());
            }
            if hand.is_empty() {
                return;
            }
            for turn in 0..batch.min(hand.len()) {
                // Not in the order in which they came.
                let head = if turn % 2 == 0 {
                    hand.pop_back()
                } else {
                    hand.pop_front()
                };
                let head = head.unwrap();
                queue.try_out(head);
                queue.complete(head, 1);
            }
            queue.publish();
        }
    }

    /// The same; says whether it died at the step.
    fn live_until(&mut self, batch: usize, step: u32) -> bool {
        self.dies_within(step, |world| world.live(batch))
    }

    /// Says whether a life ended at a step.
    fn dies_within(&mut self, step: u32, life: impl FnOnce(&mut Self)) -> bool {
        arm(Some(step));
        let outcome = catch_unwind(AssertUnwindSafe(|| life(self)));
        arm(None);
        match outcome {
            Ok(()) => false,
            Err(cause) if cause.is::<Crash>() => true,
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }

    /// A life in which everything is done in an order of chance: how much is taken, what is
    /// completed next, and what is published at once.
    fn live_at_random(&mut self, random: &mut Random) {
        let (mut queue, replays) = self.attach();
        let mut hand: Vec<u16> = replays.iter().map(|replay| replay.head).collect();
        let mut any = |below: usize| usize::try_from(random.below(below as u64)).unwrap();
        loop {
            if any(3) > 0 {
                self.drive();
            }
            while queue.available().unwrap() > 0 && any(4) > 0 {
                hand.push(queue.fetch().unwrap());
            }
            for _ in 0..any(hand.len() + 1) {
                let head = hand.swap_remove(any(hand.len()));
                queue.try_out(head);
                queue.complete(head, 1);
            }
            queue.publish();
            if hand.is_empty() {
                self.drive();
                if queue.available().unwrap() == 0 {
                    return;
                }
            }
        }
    }

    /// Everything was completed once, and nothing is left.
    fn check(&mut self, what: &str) {
        self.drive();
        assert_eq!(self.completions, [1; REQUESTS], "{what}");
        let (queue, replays) = self.attach();
        assert_eq!(replays, [], "{what}");
        assert_eq!(queue.next_avail(), queue.used(), "{what}");
    }
}

/// Dies at each step in turn. Returns the number of steps of a whole life.
fn die_everywhere(start: u16, batch: usize) -> u32 {
    for step in 0.. {
        let mut world = World::new(start);
        if !world.live_until(batch, step) {
            world.check("no death");
            return step;
        }
        world.live(batch);
        world.check(&format!("death at step {step}"));
    }
    0
}

#[test]
fn crash_at_any_step_loses_and_repeats_nothing_one_by_one() {
    assert!(die_everywhere(0, 1) > 100);
}

#[test]
fn crash_at_any_step_loses_and_repeats_nothing_in_batches() {
    assert!(die_everywhere(0, 8) > 100);
}

#[test]
fn crash_at_any_step_across_the_index_wrap_loses_and_repeats_nothing() {
    for start in [0xfff8, 0xfffd, 0xffff] {
        assert!(die_everywhere(start, 1) > 100);
        assert!(die_everywhere(start, 8) > 100);
    }
}

#[test]
fn crash_at_any_step_and_again_at_any_step_of_the_recovery_loses_and_repeats_nothing() {
    let steps = die_everywhere(0xfffa, 3);
    for first in 0..steps {
        for second in 0..48 {
            let mut world = World::new(0xfffa);
            assert!(world.live_until(3, first));
            world.live_until(3, second);
            world.live(3);
            world.check(&format!("deaths at steps {first} and {second}"));
        }
    }
}

#[test]
fn crashes_at_random_in_random_schedules_lose_and_repeat_nothing() {
    let mut deaths = 0;
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let mut world = World::new(u16::try_from(random.below(1 << 16)).unwrap());
        for _ in 0..random.below(12) {
            let steps = u32::try_from(random.below(150)).unwrap();
            let died = world.dies_within(steps, |world| world.live_at_random(&mut random));
            deaths += u32::from(died);
        }
        world.live_at_random(&mut random);
        world.check(&format!("seed {seed}"));
    }
    println!("{deaths} deaths in 2000 schedules");
    assert!(deaths > 2000, "{deaths} deaths");
}

#[test]
fn batch_is_published_at_once_and_not_before() {
    let mut world = World::new(0xfffc);
    world.drive();
    let (mut queue, _) = world.attach();
    let heads: Vec<u16> = (0..SIZE).map(|_| queue.fetch().unwrap()).collect();
    for head in heads {
        queue.complete(head, 1);
        assert!(!world.driver.has_used());
    }
    queue.publish();
    let mut used = 0;
    while world.driver.reap().unwrap().is_some() {
        used += 1;
    }
    assert_eq!(used, SIZE);
}

#[test]
fn head_posted_twice_is_refused() {
    let mut world = World::new(0);
    world.driver.offer(3);
    world.driver.offer(3);
    world.driver.show();
    let (mut queue, _) = world.attach();
    assert_eq!(queue.fetch().unwrap(), 3);
    assert!(matches!(queue.fetch(), Err(QueueError::Twice(3))));
}

/// The region is shared with the vmm: what it writes there does not let a head be taken twice, which
/// would hand the buffers of a running request to another one.
#[test]
fn head_posted_twice_is_refused_whatever_the_region_says_of_it() {
    for byte in [0_u8, 1, 0xff] {
        let mut world = World::new(0);
        world.driver.offer(3);
        world.driver.show();
        let (mut queue, _) = world.attach();
        assert_eq!(queue.fetch().unwrap(), 3);
        let scribble = |world: &World| {
            for at in 0..world.region.len_bytes() {
                let cell = world.region.at::<std::sync::atomic::AtomicU8>(at);
                cell.store(byte, std::sync::atomic::Ordering::Relaxed);
            }
        };
        scribble(&world);
        world.driver.offer(3);
        world.driver.show();
        assert!(matches!(queue.fetch(), Err(QueueError::Twice(3))));
        scribble(&world);
        queue.complete(3, 1);
        queue.publish();
        scribble(&world);
        world.driver.offer(3);
        world.driver.show();
        assert_eq!(queue.fetch().unwrap(), 3, "byte {byte:#x}");
    }
}

#[test]
#[should_panic(expected = "completes twice")]
fn head_completed_twice_is_a_bug_that_tests_find() {
    let mut world = World::new(0);
    world.driver.offer(3);
    world.driver.show();
    let (mut queue, _) = world.attach();
    queue.fetch().unwrap();
    queue.complete(3, 1);
    queue.complete(3, 1);
}

#[test]
fn request_present_at_every_death_is_counted_and_one_that_waited_is_not() {
    let mut world = World::new(0);
    world.drive();
    let (mut queue, _) = world.attach();
    let (tried, waiting) = (queue.fetch().unwrap(), queue.fetch().unwrap());
    for deaths in 1..=3 {
        queue.try_out(tried);
        let (next, replays) = world.attach();
        queue = next;
        let expected = [
            Replay {
                head: tried,
                deaths,
            },
            Replay {
                head: waiting,
                deaths: 0,
            },
        ];
        assert_eq!(replays, expected);
    }
}

#[test]
fn chain_at_a_head_is_collected() {
    let mut world = World::new(0);
    let (mut queue, _) = world.attach();
    world.drive();
    let head = queue.fetch().unwrap();
    let mut chain = Chain::default();
    queue.walk(&world.memory.bytes(), head, &mut chain).unwrap();
    let status = device_backend::chain::Buffer {
        address: vm_memory::GuestAddress(0x800),
        len_bytes: 1,
    };
    assert_eq!((chain.readable.len(), chain.writable), (0, vec![status]));
}

#[test]
fn kicks_are_asked_for_or_not() {
    let world = World::new(0);
    let [desc, avail, used] = world.driver.addresses();
    let layout = Layout {
        size: SIZE,
        desc,
        avail,
        used,
        event_idx: false,
    };
    let attach = Attach {
        layout,
        region: world.region.clone(),
        next_avail: None,
        after_crash: true,
        indirect: false,
    };
    let memory = world.memory.bytes();
    let (queue, _) = Queue::attach(&memory, attach).unwrap();
    let flags = || memory.read_obj::<u16>(used).unwrap();
    queue.disable_kicks();
    assert_eq!(flags(), 1);
    queue.enable_kicks();
    assert_eq!(flags(), 0);
}

#[test]
fn request_absolved_has_no_part_in_a_death() {
    let mut world = World::new(0);
    world.drive();
    let (mut queue, _) = world.attach();
    let head = queue.fetch().unwrap();
    queue.try_out(head);
    queue.absolve();
    let (_, replays) = world.attach();
    assert_eq!(replays, [Replay { head, deaths: 0 }]);
}
