// SPDX-License-Identifier: Apache-2.0
//! Kernels of a few dozen bytes: an ELF file with a PVH entry point.
//!
//! The code runs as PVH starts it: 32-bit protected mode, flat segments, interrupts off; it talks to
//! COM1 and to the machine's ACPI registers by port I/O.

use super::{hammer as hammer_code, interrupts, keeper, verifier};

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

/// Writes `text` to COM1.
pub fn say(text: &str) -> Vec<u8> {
    let mut code = set_dx(COM1);
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// Writes what CPUID returns to COM1, EAX, EBX, ECX and EDX, eight letters each, `a` for 0 to `p` for
/// 15, and a newline.
pub fn say_cpuid(leaf: u32, index: u32) -> Option<Vec<u8>> {
    let mut code = vec![0xb8]; // mov eax, leaf
    code.extend(leaf.to_le_bytes());
    code.push(0xb9); // mov ecx, index
    code.extend(index.to_le_bytes());
    code.extend([0x0f, 0xa2, 0x89, 0xd7, 0x89, 0xcd]); // cpuid; mov edi, edx; mov ebp, ecx
    let mut dx = set_dx(COM1);
    // mov esi, eax, ebx, ebp and edi, one after the other
    for source in [0xc6, 0xde, 0xee, 0xfe] {
        code.extend([0x89, source]);
        code.append(&mut dx);
        code.extend([0xb9, 8, 0, 0, 0]); // mov ecx, 8
        code.extend([0xc1, 0xc6, 4, 0x89, 0xf0]); // rol esi, 4; mov eax, esi
        code.extend([0x24, 0x0f, 0x04, b'a', 0xee, 0xe2, 0xf4]); // and; add; out; loop to the rol
    }
    code.extend([0xb0, b'\n', 0xee]); // mov al, newline; out dx, al
    Some(code)
}

/// Writes to so many pages of memory, from 2 MiB on.
pub fn fill(pages: u32) -> Option<Vec<u8>> {
    let mut code = vec![0xbf, 0, 0, 0x20, 0, 0xb9]; // mov edi, 0x200000; mov ecx, pages
    code.extend(pages.to_le_bytes());
    // mov [edi], edi; add edi, 4096; loop to the first
    code.extend([0x89, 0x3f, 0x81, 0xc7, 0, 0x10, 0, 0, 0xe2, 0xf6]);
    Some(code)
}

/// Powers the machine off.
pub fn power_off() -> Vec<u8> {
    write(SLEEP_CONTROL, SLEEP_ENABLE_S5)
}

/// Resets the machine through the ACPI reset register.
pub fn reset() -> Vec<u8> {
    write(RESET, RESET_VALUE)
}

/// Resets the machine through the keyboard controller.
pub fn keyboard_reset() -> Option<Vec<u8>> {
    Some(write(I8042_COMMAND, I8042_RESET))
}

/// Reports a panic through pvpanic.
pub fn panic() -> Vec<u8> {
    write(PVPANIC, PVPANIC_PANICKED)
}

/// Makes the processor give up: an invalid instruction without an interrupt table.
pub fn triple_fault() -> Option<Vec<u8>> {
    // ud2: PVH kernels are entered with an empty interrupt descriptor table.
    Some(vec![0x0f, 0x0b])
}

/// Accesses registers: see [`hammer_code`].
pub fn hammer(seed: u32, accesses: u32) -> Option<Vec<u8>> {
    Some(hammer_code::code(seed, accesses))
}

/// KVM emulates every instruction that accesses registers.
pub fn unknown_access() -> Option<Vec<u8>> {
    None
}

/// As [`unknown_access`].
pub fn misaligned_access() -> Option<Vec<u8>> {
    None
}

/// Jumps to the IOAPIC.
pub fn jump_to_a_device() -> Option<Vec<u8>> {
    // mov eax, 0xfec00000; jmp eax
    Some(vec![0xb8, 0x00, 0x00, 0xc0, 0xfe, 0xff, 0xe0])
}

/// Drives and verifies the first two devices.
pub fn verify() -> Option<Vec<u8>> {
    Some(verifier::code().to_vec())
}

/// Counts on its disk, and obeys the power button unless it is deaf.
pub fn keep(is_deaf: bool) -> Option<Vec<u8>> {
    Some(keeper::code(is_deaf))
}

/// Takes orders about its interrupts.
pub fn take_interrupts() -> Option<Vec<u8>> {
    Some(interrupts::code().to_vec())
}

/// Runs for ever.
pub fn spin() -> Vec<u8> {
    vec![0xeb, 0xfe] // jmp to itself
}

/// Waits for ever.
pub fn halt() -> Vec<u8> {
    vec![0xf4, 0xeb, 0xfd] // hlt; jmp to the hlt
}

/// Sends back what COM1 receives, until a `q`.
pub fn echo_until_q() -> Vec<u8> {
    let mut code = set_dx(COM1_LINE_STATUS);
    code.extend([0xec, 0xa8, 0x01, 0x74, 0xfb]); // in al, dx; test al, 1; jz to the in
    code.extend(set_dx(COM1));
    code.extend([0xec, 0x3c, b'q', 0x74, 0x03]); // in al, dx; cmp al, 'q'; je past the jmp
    code.extend([0xee, 0xeb, 0xeb]); // out dx, al; jmp to the start
    code
}

/// The kernel's file.
pub fn image(code: &[u8]) -> Vec<u8> {
    let code_size = code.len() as u64;
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
    elf.extend(code);
    elf
}

fn write(port: u16, value: u8) -> Vec<u8> {
    let mut code = set_dx(port);
    code.extend([0xb0, value, 0xee]); // mov al, value; out dx, al
    code
}

fn set_dx(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high] // mov dx, port
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
        let elf = image(&spin());

        assert_eq!(&elf[64..68], &1_u32.to_le_bytes());
        assert_eq!(&elf[188..192], b"Xen\0");
        assert_eq!(&elf[0x1000..], &[0xeb, 0xfe]);
    }

    #[test]
    fn echo_loops_back_to_its_start() {
        let code = echo_until_q();

        let back = i8::from_le_bytes([code[20]]);
        assert_eq!(code.len(), 21);
        assert_eq!(21 + i32::from(back), 0);
    }
}
