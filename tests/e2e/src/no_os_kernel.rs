// SPDX-License-Identifier: Apache-2.0
//! Kernels of a few dozen bytes, for guests that need no operating system.
//!
//! An ELF file with a PVH entry point. The code runs as PVH starts it: 32-bit protected mode, flat
//! segments, interrupts off; it talks to COM1 and to the machine's ACPI registers by port I/O.

mod hammer;
pub mod verifier;

const LOAD_ADDRESS: u32 = 0x10_0000;
const CODE_OFFSET: u32 = 0x1000;
const EHDR_SIZE: u16 = 64;
const PHDR_SIZE: u16 = 56;
const NOTE_OFFSET: u64 = 64 + 2 * 56;
const NOTE_SIZE: u64 = 24;

const COM1: u16 = 0x3f8;
const COM1_LINE_STATUS: u16 = 0x3fd;
const SLEEP_CONTROL: u16 = 0x600;
const SLEEP_ENABLE_S5: u8 = 0x34;
const RESET: u16 = 0x602;
const RESET_VALUE: u8 = 1;
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
const PVPANIC: u16 = 0x505;
const PVPANIC_PANICKED: u8 = 1;

/// A kernel under construction: what it does, in order.
#[derive(Debug, Clone, Default)]
pub struct NoOsKernel {
    code: Vec<u8>,
}

impl NoOsKernel {
    /// One that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `text` to COM1.
    #[must_use]
    pub fn say(mut self, text: &str) -> Self {
        self.set_dx(COM1);
        for byte in text.bytes() {
            self.code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
        }
        self
    }

    /// Powers the machine off.
    #[must_use]
    pub fn power_off(self) -> Self {
        self.write(SLEEP_CONTROL, SLEEP_ENABLE_S5).halt()
    }

    /// Resets the machine through the ACPI reset register.
    #[must_use]
    pub fn reset(self) -> Self {
        self.write(RESET, RESET_VALUE).halt()
    }

    /// Resets the machine through the keyboard controller.
    #[must_use]
    pub fn keyboard_reset(self) -> Self {
        self.write(I8042_COMMAND, I8042_RESET).halt()
    }

    /// Reports a panic through pvpanic.
    #[must_use]
    pub fn panic(self) -> Self {
        self.write(PVPANIC, PVPANIC_PANICKED).halt()
    }

    /// Makes the processor give up: an invalid instruction without an interrupt table.
    #[must_use]
    pub fn triple_fault(mut self) -> Self {
        // ud2: PVH kernels are entered with an empty interrupt descriptor table.
        self.code.extend([0x0f, 0x0b]);
        self
    }

    /// Accesses every register there is with pseudo-random values, so many times. Memory from 2 MiB to
    /// 6 MiB is spoilt by it.
    #[must_use]
    pub fn hammer(mut self, seed: u32, accesses: u32) -> Self {
        self.code.extend(hammer::code(seed, accesses));
        self
    }

    /// Drives and verifies the first two devices, which are disks, until COM1 tells it to end: see
    /// [`verifier`].
    #[must_use]
    pub fn verify(mut self) -> Self {
        self.code.extend(verifier::code());
        self
    }

    /// Runs for ever.
    #[must_use]
    pub fn spin(mut self) -> Self {
        self.code.extend([0xeb, 0xfe]); // jmp to itself
        self
    }

    /// Waits for ever.
    #[must_use]
    pub fn halt(mut self) -> Self {
        self.code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to the hlt
        self
    }

    /// Sends back what COM1 receives, until a `q`.
    #[must_use]
    pub fn echo_until_q(mut self) -> Self {
        self.set_dx(COM1_LINE_STATUS);
        self.code.extend([0xec, 0xa8, 0x01, 0x74, 0xfb]); // in al, dx; test al, 1; jz to the in
        self.set_dx(COM1);
        self.code.extend([0xec, 0x3c, b'q', 0x74, 0x03]); // in al, dx; cmp al, 'q'; je past the jmp
        self.code.extend([0xee, 0xeb, 0xeb]); // out dx, al; jmp to the start
        self
    }

    /// The kernel as an ELF file.
    #[must_use]
    pub fn to_elf(&self) -> Vec<u8> {
        let code_size = self.code.len() as u64;
        let entry = u64::from(LOAD_ADDRESS);
        let mut elf = header(entry);
        elf.extend(program_header(
            1,
            u64::from(CODE_OFFSET),
            entry,
            code_size,
            0x1000,
        ));
        elf.extend(program_header(4, NOTE_OFFSET, 0, NOTE_SIZE, 4));
        for word in [4_u32, 8, 18] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(b"Xen\0");
        elf.extend(entry.to_le_bytes());
        elf.resize(CODE_OFFSET as usize, 0);
        elf.extend(&self.code);
        elf
    }

    fn write(mut self, port: u16, value: u8) -> Self {
        self.set_dx(port);
        self.code.extend([0xb0, value, 0xee]); // mov al, value; out dx, al
        self
    }

    fn set_dx(&mut self, port: u16) {
        self.code.extend([0x66, 0xba]); // mov dx, port
        self.code.extend(port.to_le_bytes());
    }
}

fn header(entry: u64) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes()); // an executable, for x86-64
    }
    elf.extend(1_u32.to_le_bytes());
    for wide in [entry, u64::from(EHDR_SIZE), 0] {
        elf.extend(wide.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [EHDR_SIZE, PHDR_SIZE, 2, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf
}

fn program_header(kind: u32, offset: u64, address: u64, size: u64, align: u64) -> Vec<u8> {
    let mut header = Vec::new();
    for word in [kind, 5] {
        header.extend(word.to_le_bytes());
    }
    for wide in [offset, address, address, size, size, align] {
        header.extend(wide.to_le_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_has_its_note_and_code_where_the_headers_say() {
        let elf = NoOsKernel::new().spin().to_elf();

        assert_eq!(&elf[64..68], &1_u32.to_le_bytes());
        assert_eq!(&elf[188..192], b"Xen\0");
        assert_eq!(&elf[0x1000..], &[0xeb, 0xfe]);
    }

    #[test]
    fn echo_loops_back_to_its_start() {
        let code = NoOsKernel::new().echo_until_q().code;

        let back = i8::from_le_bytes([code[20]]);
        assert_eq!(code.len(), 21);
        assert_eq!(21 + i32::from(back), 0);
    }
}
