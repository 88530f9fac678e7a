// SPDX-License-Identifier: Apache-2.0
//! Kernels of a few dozen bytes, for guests that need no operating system. What they are made of is in
//! [`crate::arch`].

pub mod interrupts;
pub mod verifier;

use crate::arch::no_os;

/// A kernel under construction: what it does, in order.
#[derive(Debug, Clone, Default)]
pub struct NoOsKernel {
    code: Vec<u8>,
    lacks: Option<&'static str>,
}

impl NoOsKernel {
    /// One that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `text` to the serial port.
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        self.then(&no_os::say(text))
    }

    /// Writes what CPUID returns to the serial port, in letters: see `arch/x86_64/no_os.rs`.
    #[must_use]
    pub fn say_cpuid(self, leaf: u32, index: u32) -> Self {
        self.maybe("CPUID", no_os::say_cpuid(leaf, index))
    }

    /// Writes to so many pages of memory, from 2 MiB on.
    #[must_use]
    pub fn fill(self, pages: u32) -> Self {
        self.maybe("filling memory", no_os::fill(pages))
    }

    /// Powers the machine off.
    #[must_use]
    pub fn power_off(self) -> Self {
        self.then(&no_os::power_off()).halt()
    }

    /// Resets the machine, as an operating system does.
    #[must_use]
    pub fn reset(self) -> Self {
        self.then(&no_os::reset()).halt()
    }

    /// Resets the machine through the keyboard controller.
    #[must_use]
    pub fn keyboard_reset(self) -> Self {
        self.maybe("keyboard controller", no_os::keyboard_reset())
            .halt()
    }

    /// Reports a panic through pvpanic.
    #[must_use]
    pub fn panic(self) -> Self {
        self.then(&no_os::panic()).halt()
    }

    /// Makes the processor give up.
    #[must_use]
    pub fn triple_fault(self) -> Self {
        self.maybe("triple fault", no_os::triple_fault())
    }

    /// Accesses a device's register by an instruction that KVM cannot emulate.
    #[must_use]
    pub fn unknown_access(self) -> Self {
        self.maybe(
            "instruction that KVM cannot emulate",
            no_os::unknown_access(),
        )
    }

    /// Accesses a device's registers misaligned.
    #[must_use]
    pub fn misaligned_access(self) -> Self {
        self.maybe(
            "misaligned access that KVM refuses",
            no_os::misaligned_access(),
        )
    }

    /// Jumps to a device's registers, as if they were instructions.
    #[must_use]
    pub fn jump_to_a_device(self) -> Self {
        self.maybe("jump that KVM refuses", no_os::jump_to_a_device())
    }

    /// Accesses every register there is with pseudo-random values, so many times. Some
    /// memory is spoilt by it: see `arch/*/hammer.rs`.
    #[must_use]
    pub fn hammer(self, seed: u32, accesses: u32) -> Self {
        self.maybe("hammer", no_os::hammer(seed, accesses))
    }

    /// Drives and verifies the first two devices, which are disks, until the serial port tells it to
    /// end: see [`verifier`].
    #[must_use]
    pub fn verify(self) -> Self {
        self.maybe("verifier", no_os::verify())
    }

    /// Keeps two numbers of 32 bits at the begin of the first device, which is a disk: how often it was
    /// booted, and how many sectors it has written in all its life, some fifty each second. It says what
    /// it has found there, and powers off when the power button is pressed; one that is deaf does not.
    #[must_use]
    pub fn keep(self, is_deaf: bool) -> Self {
        self.maybe("keeper", no_os::keep(is_deaf))
    }

    /// Takes orders about its interrupts from the serial port: see [`interrupts`].
    #[must_use]
    pub fn take_interrupts(self) -> Self {
        self.maybe("interrupts", no_os::take_interrupts())
    }

    /// Runs for ever.
    #[must_use]
    pub fn spin(self) -> Self {
        self.then(&no_os::spin())
    }

    /// Waits for ever.
    #[must_use]
    pub fn halt(self) -> Self {
        self.then(&no_os::halt())
    }

    /// Sends back what the serial port receives, until a `q`.
    #[must_use]
    pub fn echo_until_q(self) -> Self {
        self.then(&no_os::echo_until_q())
    }

    /// What it was to do that kernels of this architecture cannot.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        self.lacks
    }

    /// The kernel's file.
    #[must_use]
    pub fn to_image(&self) -> Vec<u8> {
        no_os::image(&self.code)
    }

    fn then(mut self, code: &[u8]) -> Self {
        self.code.extend(code);
        self
    }

    fn maybe(mut self, what: &'static str, code: Option<Vec<u8>>) -> Self {
        if code.is_none() {
            self.lacks = Some(what);
        }
        self.then(&code.unwrap_or_default())
    }
}
