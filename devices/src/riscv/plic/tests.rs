// SPDX-License-Identifier: Apache-2.0
use super::*;

#[derive(Default)]
struct Harts(Mutex<Vec<(usize, bool)>>);

impl HartInterrupts for Harts {
    fn set(&self, hart: usize, high: bool) {
        self.0.lock().unwrap().push((hart, high));
    }
}

impl Harts {
    fn take(&self) -> Vec<(usize, bool)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn plic() -> (Arc<Plic>, Arc<Harts>) {
    let harts = Arc::<Harts>::default();
    (Arc::new(Plic::new(2, harts.clone())), harts)
}

fn write(plic: &Plic, offset: u64, value: u32) {
    plic.write(offset, &value.to_le_bytes());
}

fn read(plic: &Plic, offset: u64) -> u32 {
    let mut data = [0; 4];
    plic.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn line(plic: &Arc<Plic>, source: u32, high: bool) {
    PlicSource::new(Arc::clone(plic), source).set(high);
}

/// As a driver leaves a source: priority 1, enabled for this hart.
fn enable(plic: &Plic, hart: u64, source: u32, priority: u32) {
    write(plic, 4 * u64::from(source), priority);
    let at = ENABLE + ENABLE_STRIDE * hart + 4 * u64::from(source / 32);
    let before = read(plic, at);
    write(plic, at, before | 1 << (source % 32));
}

fn claim_of(hart: u64) -> u64 {
    CONTEXT + CONTEXT_STRIDE * hart + CLAIM
}

#[test]
fn level_interrupts_is_claimed_and_interrupts_again_if_it_is_still_high() {
    let (plic, harts) = plic();
    enable(&plic, 1, 3, 1);
    line(&plic, 3, true);
    assert_eq!(harts.take(), [(1, true)]);
    assert_eq!(read(&plic, PENDING), 1 << 3);

    assert_eq!(read(&plic, claim_of(1)), 3);

    assert_eq!(harts.take(), [(1, false)]);
    assert_eq!(read(&plic, claim_of(1)), 0, "in flight");
    write(&plic, claim_of(1), 3);
    assert_eq!(harts.take(), [(1, true)]);
    assert_eq!(read(&plic, claim_of(1)), 3);
    line(&plic, 3, false);
    write(&plic, claim_of(1), 3);
    assert_eq!(harts.take(), [(1, false)]);
}

#[test]
fn source_of_highest_priority_comes_first_and_the_lowest_of_equals() {
    let (plic, _) = plic();
    for (source, priority) in [(9, 1), (40, 5), (7, 5), (5, 0)] {
        enable(&plic, 0, source, priority);
        line(&plic, source, true);
    }
    let claimed: Vec<u32> = (0..4).map(|_| read(&plic, claim_of(0))).collect();
    assert_eq!(claimed, [7, 40, 9, 0]);
}

#[test]
fn threshold_holds_interrupts_back_and_claims_not() {
    let (plic, harts) = plic();
    enable(&plic, 0, 2, 3);
    write(&plic, CONTEXT, 3);
    line(&plic, 2, true);
    assert!(harts.take().is_empty());
    write(&plic, CONTEXT, 2);
    assert_eq!(harts.take(), [(0, true)]);
    write(&plic, CONTEXT, 7);
    assert_eq!((harts.take().len(), read(&plic, claim_of(0))), (1, 2));
}

#[test]
fn completion_of_a_source_that_is_not_enabled_is_ignored() {
    let (plic, _) = plic();
    enable(&plic, 0, 2, 1);
    line(&plic, 2, true);
    assert_eq!(read(&plic, claim_of(0)), 2);
    write(&plic, claim_of(1), 2);
    write(&plic, claim_of(0), 99);
    assert_eq!(read(&plic, claim_of(0)), 0);
    write(&plic, claim_of(0), 2);
    assert_eq!(read(&plic, claim_of(0)), 2);
}

#[test]
fn source_is_one_for_all_contexts() {
    let (plic, harts) = plic();
    enable(&plic, 0, 2, 1);
    enable(&plic, 1, 2, 1);
    line(&plic, 2, true);
    assert_eq!(harts.take(), [(0, true), (1, true)]);
    assert_eq!((read(&plic, claim_of(1)), read(&plic, claim_of(0))), (2, 0));
    assert_eq!(harts.take(), [(0, false), (1, false)]);
}

#[test]
fn state_taken_over_interrupts_the_same_harts() {
    let (plic, _) = plic();
    enable(&plic, 1, 33, 2);
    line(&plic, 33, true);
    let (next, harts) = super::tests::plic();

    next.restore(&plic.save()).unwrap();

    assert_eq!((harts.take(), next.save()), (vec![(1, true)], plic.save()));
    let one = Plic::new(1, Arc::<Harts>::default());
    assert!(one.restore(&plic.save()).is_err());
}

#[test]
fn access_of_any_width_and_offset_does_no_harm() {
    let (plic, _) = plic();
    let offsets = [
        0, 0xffc, 0x1000, 0x1ffc, 0x2000, 0x2080, 0x1f_fffc, 0x20_0000, 0x20_1000,
    ];
    for base in offsets.into_iter().chain([0x3ff_ffe0]) {
        for offset in base..base + 0x20 {
            for len in 0..=8 {
                plic.write(offset, &vec![0xff; len]);
                plic.read(offset, &mut vec![0; len]);
            }
        }
    }
    assert_eq!(read(&plic, 0), 0, "there is no source 0");
}
