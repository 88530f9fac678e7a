// SPDX-License-Identifier: Apache-2.0
//! The PLIC: registers and lines in any order. A hart is told of a level only when it changes, and a
//! source is claimed only while its line had asked for it.

use std::sync::{Arc, Mutex};

use devices::bus::BusDevice;
use devices::interrupt::InterruptLine;
use devices::riscv::plic::{HartInterrupts, Plic, PlicSource, SOURCE_MAX};

use crate::script::Script;

const HARTS: usize = 3;
const STEPS_MAX: usize = 400;
const CLAIMS: u64 = 0x20_0004;

#[derive(Default)]
struct Harts(Mutex<[bool; HARTS]>);

impl HartInterrupts for Harts {
    fn set(&self, hart: usize, high: bool) {
        let before = std::mem::replace(&mut self.0.lock().unwrap()[hart], high);
        assert_ne!(before, high, "told of a level that has not changed");
    }
}

pub(crate) fn run(data: &[u8]) {
    let harts = Arc::<Harts>::default();
    let plic = Arc::new(Plic::new(HARTS, Arc::clone(&harts) as _));
    let mut script = Script::new(data);
    let mut asked = [false; SOURCE_MAX as usize + 1];
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        match step {
            0..0x40 => {
                let at = u64::from(script.u32()) % devices::riscv::plic::LEN_BYTES;
                let mut access = script.access();
                match step & 1 {
                    0 => plic.write(at, access.data()),
                    _ => plic.read(at, access.room()),
                }
            }
            // What a driver writes: priority, enable, threshold, completion.
            0x40..0x80 => {
                let hart = u64::from(script.u8()) % HARTS as u64;
                let at = match step & 3 {
                    0 => 4 * u64::from(script.u8() % 70),
                    1 => 0x2000 + 0x80 * hart + 4 * u64::from(script.u8() % 3),
                    2 => CLAIMS - 4 + 0x1000 * hart,
                    _ => CLAIMS + 0x1000 * hart,
                };
                plic.write(at, &script.u32().to_le_bytes());
            }
            0x80..0xc0 => {
                let source = u32::from(script.u8() % 70);
                PlicSource::new(Arc::clone(&plic), source).set(step & 1 != 0);
                if let Some(asked) = asked.get_mut(source as usize) {
                    *asked |= step & 1 != 0;
                }
            }
            _ => {
                let hart = u64::from(step) % HARTS as u64;
                let mut claimed = [0; 4];
                plic.read(CLAIMS + 0x1000 * hart, &mut claimed);
                let source = u32::from_le_bytes(claimed) as usize;
                assert!(source == 0 || asked[source], "{source} was never asked for");
            }
        }
    }
    let next = Plic::new(HARTS, Arc::<Harts>::default());
    next.restore(&plic.save()).unwrap();
    assert_eq!(next.save(), plic.save());
}
