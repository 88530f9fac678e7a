// SPDX-License-Identifier: Apache-2.0
//! Kernels of a few dozen bytes, in the format Image. The code runs in VS mode without an MMU; it talks
//! to the serial port and to SBI.

use super::hammer as hammer_code;

const UART: u32 = 0x1000_02b7; // lui t0, 0x10000
const STORE: u32 = 0x0062_8023; // sb t1, 0(t0)

/// Writes `text` to the serial port.
pub fn say(text: &str) -> Vec<u8> {
    let bytes = text.bytes().flat_map(|byte| [li_t1(byte.into()), STORE]);
    code(&std::iter::once(UART).chain(bytes).collect::<Vec<_>>())
}

/// There is no such instruction.
pub fn say_cpuid(_: u32, _: u32) -> Option<Vec<u8>> {
    None
}

/// Not written.
pub fn fill(_: u32) -> Option<Vec<u8>> {
    None
}

/// Powers the machine off: SRST, shutdown.
pub fn power_off() -> Vec<u8> {
    srst(0)
}

/// Resets the machine: SRST, cold reboot.
pub fn reset() -> Vec<u8> {
    srst(1)
}

/// Reports a panic through pvpanic.
pub fn panic() -> Vec<u8> {
    code(&[0x1003_02b7, li_t1(1), STORE]) // lui t0, 0x10030
}

/// Runs for ever.
pub fn spin() -> Vec<u8> {
    code(&[0x0000_006f]) // j to itself
}

/// Waits for ever.
pub fn halt() -> Vec<u8> {
    code(&[0x1050_0073, 0xffdf_f06f]) // wfi; j to the wfi
}

/// Sends back what the serial port receives, until a `q`.
pub fn echo_until_q() -> Vec<u8> {
    code(&[
        UART,
        0x0052_c303, // lbu t1, 5(t0): the line status
        0x0013_7393, // andi t2, t1, 1
        0xfe03_8ce3, // beqz t2, to the lbu
        0x0002_c303, // lbu t1, 0(t0)
        0x0710_0393, // li t2, 'q'
        0x0073_0663, // beq t1, t2, past the j
        STORE,
        0xfe5f_f06f, // j to the first lbu
    ])
}

/// There is no such way.
pub fn keyboard_reset() -> Option<Vec<u8>> {
    None
}

/// A processor without a trap vector takes traps for ever.
pub fn triple_fault() -> Option<Vec<u8>> {
    None
}

/// Accesses registers: see [`hammer_code`].
pub fn hammer(seed: u32, accesses: u32) -> Option<Vec<u8>> {
    Some(hammer_code::code(seed, accesses))
}

/// Accesses a register of the serial port by an instruction that KVM does not emulate.
pub fn unknown_access() -> Option<Vec<u8>> {
    Some(code(&[UART, 0x0062_a32f])) // amoadd.w t1, t1, (t0)
}

/// Reads across registers of the serial port.
pub fn misaligned_access() -> Option<Vec<u8>> {
    Some(code(&[UART, 0x0012_a303])) // lw t1, 1(t0)
}

/// Jumps to the serial port.
pub fn jump_to_a_device() -> Option<Vec<u8>> {
    Some(code(&[UART, 0x0002_8067])) // jr t0
}

/// Not written.
pub fn verify() -> Option<Vec<u8>> {
    None
}

/// Not written.
pub fn take_interrupts() -> Option<Vec<u8>> {
    None
}

/// Not written.
pub fn keep(_: bool) -> Option<Vec<u8>> {
    None
}

/// The kernel's file. (Documentation/arch/riscv/boot-image-header.rst)
pub fn image(kernel: &[u8]) -> Vec<u8> {
    const TEXT_OFFSET: u64 = 2 << 20;
    const VERSION: u64 = 2;
    let mut image = code(&[0x0400_006f, 0]); // j behind the header
    let size = (64 + kernel.len() as u64).next_multiple_of(0x1_0000);
    for word in [TEXT_OFFSET, size, 0, VERSION, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend(b"RISCV\0\0\0RSC\x05\0\0\0\0");
    image.extend(kernel);
    image
}

fn srst(kind: u32) -> Vec<u8> {
    code(&[
        0x5352_58b7,              // lui a7, 0x53525
        0x3548_8893,              // addi a7, a7, 0x354: SRST
        0x0000_0813,              // li a6, 0: system reset
        kind << 20 | 0x0000_0513, // li a0, kind
        0x0000_0593,              // li a1, 0: no reason
        0x0000_0073,              // ecall
    ])
}

/// Puts `value`, sign-extended, into the register of this number.
pub(super) fn load(register: u32, value: u32) -> Vec<u8> {
    let low = value & 0xfff;
    // The lower part is signed.
    let high = value.wrapping_add(0x800) & 0xffff_f000;
    let lui = high | register << 7 | 0x37;
    code(&[lui, low << 20 | register << 15 | register << 7 | 0x1b]) // addiw
}

fn li_t1(value: u32) -> u32 {
    value << 20 | 0x0000_0313
}

fn code(instructions: &[u32]) -> Vec<u8> {
    let bytes = instructions.iter().flat_map(|word| word.to_le_bytes());
    bytes.collect()
}
