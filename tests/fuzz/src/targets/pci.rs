// SPDX-License-Identifier: Apache-2.0
//! Configuration space of any shape, and a driver that writes it anyhow. What is read-only stays, the
//! list of capabilities stays a list, and a BAR stays aligned to its length.

use devices::pci::bar::Bar;
use devices::pci::config::{ConfigSpace, Identity};

use crate::script::Script;

const STEPS_MAX: usize = 400;

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut space = ConfigSpace::new(Identity {
        vendor_id: 0x1af4,
        device_id: 0x1042,
        revision_id: 1,
        class: [1, 0, 0],
        subsystem_vendor_id: 0x1af4,
        subsystem_id: 0x1042,
    });
    let shape = script.u8();
    let low = Bar::Memory32 {
        len: 1 << (4 + shape % 20),
    };
    let high = Bar::Memory64 {
        len: 1 << (4 + shape / 8),
    };
    space.add_bar(1, low, script.u64());
    space.add_bar(2, high, script.u64());
    let mut capabilities = Vec::new();
    for _ in 0..script.u8() % 8 {
        let (id, body) = (script.u8(), script.bytes());
        match space.add_capability(id, body, script.bytes()) {
            Ok(at) => capabilities.push((at, id)),
            Err(_) => break,
        }
    }
    let identity = read(&space, 0, 4);
    for _ in 0..STEPS_MAX {
        if script.next().is_none() {
            break;
        }
        let (at, mut access) = (usize::from(script.u16()), script.access());
        if script.flag() {
            space.read(at, access.room());
        } else {
            space.write(at, access.data());
        }
    }
    assert_eq!(read(&space, 0, 4), identity);
    assert_eq!(list(&space), capabilities);
    for (index, bar) in [(1, low), (2, high)] {
        if let Some(at) = space.bar_address(index) {
            assert_eq!(at % bar.len_bytes(), 0, "{bar:x?} at {at:x}");
        }
    }
}

fn read(space: &ConfigSpace, at: usize, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    space.read(at, &mut data);
    data
}

/// The capabilities as a driver finds them.
fn list(space: &ConfigSpace) -> Vec<(usize, u8)> {
    let mut found = Vec::new();
    let mut at = usize::from(read(space, 0x34, 1)[0]);
    while at != 0 {
        assert!(found.len() < 64, "the list has no end");
        found.push((at, read(space, at, 1)[0]));
        at = usize::from(read(space, at + 1, 1)[0]);
    }
    found
}
