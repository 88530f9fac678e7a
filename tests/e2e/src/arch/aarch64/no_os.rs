// SPDX-License-Identifier: Apache-2.0
//! Kernels of a few dozen bytes, in the format Image. The code runs in EL1 without an MMU, so that all
//! memory is that of devices; it talks to the serial port and to PSCI.

use super::hammer as hammer_code;

const UART: u32 = 0xd2a2_0001; // movz x1, #0x1000, lsl #16
const HVC: u32 = 0xd400_0002; // hvc #0

/// Writes `text` to the serial port.
pub fn say(text: &str) -> Vec<u8> {
    let bytes = text
        .bytes()
        .flat_map(|byte| [movz_w0(byte.into()), 0x3900_0020]); // strb w0, [x1]
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

/// Powers the machine off: SYSTEM_OFF.
pub fn power_off() -> Vec<u8> {
    psci(0x8400_0008)
}

/// Resets the machine: SYSTEM_RESET.
pub fn reset() -> Vec<u8> {
    psci(0x8400_0009)
}

/// Reports a panic through pvpanic.
pub fn panic() -> Vec<u8> {
    code(&[0xd2a2_0061, movz_w0(1), 0x3900_0020]) // movz x1, #0x1003, lsl #16; strb w0, [x1]
}

/// Runs for ever.
pub fn spin() -> Vec<u8> {
    code(&[0x1400_0000]) // b to itself
}

/// Waits for ever.
pub fn halt() -> Vec<u8> {
    code(&[0xd503_207f, 0x17ff_ffff]) // wfi; b to the wfi
}

/// Sends back what the serial port receives, until a `q`.
pub fn echo_until_q() -> Vec<u8> {
    code(&[
        UART,
        0x3940_1420, // ldrb w0, [x1, #5]: the line status
        0x3607_ffe0, // tbz w0, #0, to the ldrb
        0x3940_0020, // ldrb w0, [x1]
        0x7101_c41f, // cmp w0, #'q'
        0x5400_0060, // b.eq past the b
        0x3900_0020, // strb w0, [x1]
        0x17ff_fffa, // b to the first ldrb
    ])
}

/// There is no such way.
pub fn keyboard_reset() -> Option<Vec<u8>> {
    None
}

/// A processor without a vector table takes exceptions for ever.
pub fn triple_fault() -> Option<Vec<u8>> {
    None
}

/// Accesses registers: see [`hammer_code`].
pub fn hammer(seed: u32, accesses: u32) -> Option<Vec<u8>> {
    Some(hammer_code::code(seed, accesses))
}

/// Reads registers of the serial port by an instruction whose operands the processor does not report.
pub fn unknown_access() -> Option<Vec<u8>> {
    Some(code(&[UART, 0xa940_0c22])) // ldp x2, x3, [x1]
}

/// Device memory takes no misaligned access: that is an exception in the guest.
pub fn misaligned_access() -> Option<Vec<u8>> {
    None
}

/// That is an exception in the guest, too.
pub fn jump_to_a_device() -> Option<Vec<u8>> {
    None
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

/// The kernel's file. (Documentation/arch/arm64/booting.rst)
pub fn image(kernel: &[u8]) -> Vec<u8> {
    const ANYWHERE: u64 = 1 << 3;
    let mut image = code(&[0x1400_0010, 0]); // b behind the header
    let size = (64 + kernel.len() as u64).next_multiple_of(0x1_0000);
    for word in [0, size, ANYWHERE, 0, 0, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend(b"ARM\x64\0\0\0\0");
    image.extend(kernel);
    image
}

fn psci(function: u32) -> Vec<u8> {
    let [low, high] = [function & 0xffff, function >> 16];
    code(&[movz_w0(low), 0x72a0_0000 | high << 5, HVC]) // movk w0, #high, lsl #16
}

/// Puts `value` into the 32-bit register of this number.
pub(super) fn load(register: u32, value: u32) -> Vec<u8> {
    let [low, high] = [value & 0xffff, value >> 16];
    let movz = 0x5280_0000 | low << 5 | register;
    code(&[movz, 0x72a0_0000 | high << 5 | register]) // movk, lsl #16
}

fn movz_w0(value: u32) -> u32 {
    0x5280_0000 | value << 5
}

fn code(instructions: &[u32]) -> Vec<u8> {
    let bytes = instructions.iter().flat_map(|word| word.to_le_bytes());
    bytes.collect()
}
