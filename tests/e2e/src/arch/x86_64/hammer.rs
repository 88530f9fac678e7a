// SPDX-License-Identifier: Apache-2.0
//! A guest that means harm: it accesses registers of every device with pseudo-random values and widths
//! until its count is used up, then goes on with what follows it in the kernel.
//!
//! What it must not touch is the way it ends: the ports of power-off, reset and pvpanic are only read.
//! Everything else it may bring about (an interrupt that its processor cannot take, a BAR anywhere) is
//! its own end, and nobody else's.
#![allow(unsafe_code)] // assembler, whose output is data

use core::arch::global_asm;

use crate::arch::hammer_code;

// ebp: the random number; edi: accesses left; ecx: what decides where and how; ebx: where.
// Memory from 2 MiB to 6 MiB is the hammer's to spoil; its code is at 1 MiB, it needs no stack.
global_asm!(
    r#"
    .section .rodata.no_os_hammer, "a"
    .code32

    /* ebp = the next number (xorshift32); changes eax */
    .macro hammer_random
        mov eax, ebp
        shl eax, 13
        xor ebp, eax
        mov eax, ebp
        shr eax, 17
        xor ebp, eax
        mov eax, ebp
        shl eax, 5
        xor ebp, eax
    .endm

    .globl no_os_hammer_start
    .globl no_os_hammer_end
no_os_hammer_start:
hammer_next:
    dec edi
    jz hammer_done
    hammer_random
    mov ecx, ebp
    hammer_random
    mov ebx, ecx
    shr ebx, 8
    mov eax, ecx
    and eax, 31
    cmp eax, 4
    jb hammer_port
    cmp eax, 8
    jb hammer_config
    cmp eax, 14
    jb hammer_common
    cmp eax, 16
    jb hammer_bar
    cmp eax, 18
    jb hammer_doorbell
    cmp eax, 21
    jb hammer_msix
    cmp eax, 23
    jb hammer_ioapic
    cmp eax, 25
    jb hammer_ram
    cmp eax, 26
    jb hammer_move
    cmp eax, 30
    jb hammer_serial
    jmp hammer_drive

    /* any port read; 0xcf8 to 0xcff, 0x60 to 0x63 and 0x3f8 to 0x3ff written */
hammer_port:
    mov edx, ebx
    test ecx, 0x20
    jnz hammer_in
    and edx, 7
    test ecx, 0x40
    jz hammer_port_config
    and edx, 3
    or edx, 0x60
    jmp hammer_out
hammer_port_config:
    or edx, 0xcf8
hammer_out:
    mov eax, ebp
    test ecx, 0x80
    jz hammer_out_byte
    test ecx, 0x100
    jz hammer_out_word
    out dx, eax
    jmp hammer_next
hammer_out_word:
    out dx, ax
    jmp hammer_next
hammer_out_byte:
    out dx, al
    jmp hammer_next
hammer_in:
    test ecx, 0x80
    jz hammer_in_byte
    in eax, dx
    jmp hammer_next
hammer_in_byte:
    in al, dx
    jmp hammer_next
hammer_serial:
    mov edx, ebx
    and edx, 7
    or edx, 0x3f8
    jmp hammer_out

    /* configuration space of devices 0 to 3: mostly registers that exist */
hammer_config:
    mov eax, ebx
    and ebx, 0x180ff
    test eax, 0x100000
    jz hammer_config_known
    and eax, 0xfffff
    mov ebx, eax
hammer_config_known:
    add ebx, 0xeb000000
    jmp hammer_memory

    /* common configuration of the two devices */
hammer_common:
    mov eax, ebx
    and ebx, 0x3f
    jmp hammer_bar_of
hammer_bar:
    mov eax, ebx
    and ebx, 0xffff
    jmp hammer_bar_of
hammer_doorbell:
    mov eax, ebx
    and ebx, 0x1c
    or ebx, 0x3000
    jmp hammer_bar_of
hammer_msix:
    mov eax, ebx
    and ebx, 0x3f
    or ebx, 0x8000
hammer_bar_of:
    and eax, 0x10000
    add ebx, eax
    add ebx, 0xd0000000
    jmp hammer_memory

hammer_ioapic:
    and ebx, 0x7f
    add ebx, 0xfec00000
    jmp hammer_memory
hammer_ram:
    and ebx, 0x3fffff
    add ebx, 0x200000

    /* an access at ebx of 1, 2 or 4 bytes */
hammer_memory:
    test ecx, 0x20
    jnz hammer_load
    test ecx, 0x40
    jz hammer_store_long
    test ecx, 0x80
    jz hammer_store_word
    mov eax, ebp
    mov byte ptr [ebx], al
    jmp hammer_next
hammer_store_word:
    mov eax, ebp
    mov word ptr [ebx], ax
    jmp hammer_next
hammer_store_long:
    mov dword ptr [ebx], ebp
    jmp hammer_next
hammer_load:
    test ecx, 0x40
    jz hammer_load_long
    mov al, byte ptr [ebx]
    jmp hammer_next
hammer_load_long:
    mov eax, dword ptr [ebx]
    jmp hammer_next

    /* the BAR of device 1 or 2 goes onto RAM, the other BAR, the IOAPIC, ECAM or anywhere */
hammer_move:
    mov eax, ebx
    and ebx, 0x8000
    add ebx, 0xeb008000
    mov dword ptr [ebx + 4], 6
    mov edx, 0x200000
    test eax, 1
    jz hammer_move_low
    mov edx, 0xd0010000
    test eax, 2
    jz hammer_move_low
    mov edx, 0xfec00000
    test eax, 4
    jz hammer_move_low
    mov edx, 0xeb000000
    test eax, 8
    jz hammer_move_low
    mov edx, ebp
hammer_move_low:
    mov dword ptr [ebx + 0x10], edx
    xor edx, edx
    test eax, 0x30
    jnz hammer_move_high
    mov edx, ebp
hammer_move_high:
    mov dword ptr [ebx + 0x14], edx
    jmp hammer_next

    /* device 1 or 2 as a driver starts it, with queue 0 anywhere in the memory to spoil */
hammer_drive:
    and ebx, 1
    mov edx, ebx
    shl edx, 15
    add edx, 0xeb008000
    shl ebx, 16
    add ebx, 0xd0000000
    mov dword ptr [edx + 0x10], ebx
    mov dword ptr [edx + 0x14], 0
    mov dword ptr [edx + 4], 6
    mov byte ptr [ebx + 20], 0
    mov al, byte ptr [ebx + 20]
    mov byte ptr [ebx + 20], 1
    mov byte ptr [ebx + 20], 3
    mov dword ptr [ebx + 8], 0
    mov dword ptr [ebx + 12], 0x30000000
    mov dword ptr [ebx + 8], 1
    mov dword ptr [ebx + 12], 1
    mov byte ptr [ebx + 20], 0xb
    mov word ptr [ebx + 22], 0
    mov word ptr [ebx + 24], 16
    mov word ptr [ebx + 26], 0
    mov eax, ebp
    and eax, 0x3ffff0
    add eax, 0x200000
    mov dword ptr [ebx + 32], eax
    mov dword ptr [ebx + 36], 0
    xor eax, 0x3000
    mov dword ptr [ebx + 40], eax
    mov dword ptr [ebx + 44], 0
    xor eax, 0x5000
    mov dword ptr [ebx + 48], eax
    mov dword ptr [ebx + 52], 0
    mov word ptr [ebx + 28], 1
    mov byte ptr [ebx + 20], 0xf
    mov word ptr [ebx + 0x3000], 0
    jmp hammer_next

hammer_done:
no_os_hammer_end:
    .code64
    .text
    "#
);

/// The hammer, beginning with `seed`, with so many accesses.
pub(super) fn code(seed: u32, accesses: u32) -> Vec<u8> {
    let mut code = vec![0xbd]; // mov ebp, seed; not zero, or all numbers are
    code.extend(seed.max(1).to_le_bytes());
    code.push(0xbf); // mov edi, accesses
    code.extend(accesses.to_le_bytes());
    code.extend(hammer_code::assembled());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hammer_is_assembled_for_32_bits() {
        let code = code(7, 9);

        assert_eq!(code[..10], [0xbd, 7, 0, 0, 0, 0xbf, 9, 0, 0, 0]);
        // dec edi is one byte there; in 64-bit code it would be two.
        assert_eq!(code[10], 0x4f);
        assert!(code.len() > 400, "{} bytes", code.len());
    }
}
