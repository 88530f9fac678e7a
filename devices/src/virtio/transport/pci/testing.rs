// SPDX-License-Identifier: Apache-2.0
//! A driver's view of a function with a device that only remembers what it was asked.

use crate::interrupt::MsiMessage;
use crate::testing::{self, FakeDevice, OFFERED};

/// A function, and what a driver does to it.
pub(super) type Guest = testing::Guest<FakeDevice>;

pub(super) const BAR0: usize = 0x10;

impl Guest {
    /// As after power-on.
    pub(super) fn fresh() -> Self {
        Self::new(FakeDevice::default().into())
    }

    /// With memory space, bus mastering and MSI-X on, vector i unmasked with data 0x40 + i.
    pub(super) fn enabled() -> Self {
        let guest = Self::fresh();
        guest.enable();
        guest
    }

    /// As far as DRIVER_OK with queue 0 on vector 1, queue 1 on vector 2, config on vector 0.
    pub(super) fn running() -> Self {
        let guest = Self::enabled();
        guest.start(OFFERED, 64);
        guest
    }

    /// The device's process says that it used buffers of a queue.
    pub(super) fn call(&self, queue: usize) {
        let call = |call: &_| self.wires.call(call);
        let called = self.device.active(|a| call(&a.queues[queue].events.call));
        called.unwrap();
    }
}

pub(super) fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data,
    }
}

/// Pseudo-random numbers (xorshift64*), the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
