// SPDX-License-Identifier: Apache-2.0
//! A device's state from a file that anyone has written: it is refused, or taken and then the same
//! when it is told again, and the device bears any access.

use std::sync::Arc;

use devices::ioapic::{IoApic, IoApicState};
use devices::riscv::plic::{HartInterrupts, Plic, PlicState};
use devices::testing::{FakeDevice, Guest};
use devices::virtio::transport::pci::function::FunctionState;

use super::ioapic::Apics;
use crate::script::Script;

struct Harts;

impl HartInterrupts for Harts {
    fn set(&self, _: usize, _: bool) {}
}

pub(crate) fn run(data: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<FunctionState>(data) {
        let guest = Guest::new(Arc::new(FakeDevice::default()));
        if guest.function.restore(&state).is_ok() {
            let saved = guest.function.save();
            let again = Guest::new(Arc::new(FakeDevice::default()));
            again.function.restore(&saved).unwrap();
            assert_eq!(again.function.save(), saved);
            let mut script = Script::new(data);
            for _ in 0..100 {
                let at = u64::from(script.u16());
                guest.write(at, script.access().data());
                guest.read(at, 4);
            }
        }
    }
    if let Ok(state) = serde_json::from_slice::<IoApicState>(data) {
        let _ = IoApic::new(Arc::<Apics>::default()).restore(&state);
    }
    if let Ok(state) = serde_json::from_slice::<PlicState>(data) {
        let _ = Plic::new(1, Arc::new(Harts)).restore(&state);
    }
}
