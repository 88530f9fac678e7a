// SPDX-License-Identifier: Apache-2.0
//! The guest that counts on its disk and obeys the power button.
#![allow(unsafe_code)] // the assembler's output is data, found by its symbols

use core::arch::global_asm;

// Memory: the stack below 512 KiB;
//   0x200000 descriptors   0x201000 available ring   0x202000 used ring
//   0x203000 header, status at +16   0x204000 the sector   0x205000 whether the button was pressed
//   0x206000 what lidt loads   0x207000 the interrupt table, up to vector 0x3f
// Vectors: 0x30 the button, by pin 9 of the IOAPIC; 0x31 the local APIC's timer; 0x3f spurious.
// ebp is 1 if the button is to be ignored.
global_asm!(
    r#"
    .section .rodata.no_os_keeper, "a"
    .code32

    .globl no_os_keeper_start
    .globl no_os_keeper_end
no_os_keeper_start:
    cld
    mov esp, 0x80000

    /* the interrupt table */
    call keeper_here
keeper_here:
    pop eax
    lea ebx, [eax + keeper_to_button]
    lea esi, [eax + keeper_to_tick]
    mov edi, 0x207180
    mov ecx, 16
keeper_gate:
    mov edx, ebx
    and edx, 0xffff
    or edx, 0x100000
    mov [edi], edx
    mov edx, ebx
    and edx, 0xffff0000
    or edx, 0x8e00
    mov [edi + 4], edx
    add edi, 8
    mov ebx, esi
    loop keeper_gate
    mov eax, 0x206000
    mov word ptr [eax], 0x1ff
    mov dword ptr [eax + 2], 0x207000
    lidt [eax]
    mov dword ptr [eax - 0x1000], 0

    /* the local APIC and its timer, every 20 ms; pin 9 of the IOAPIC */
    mov eax, 0xfee00000
    mov dword ptr [eax + 0xf0], 0x13f
    mov dword ptr [eax + 0x3e0], 0xb
    mov dword ptr [eax + 0x320], 0x20031
    mov dword ptr [eax + 0x380], 20000000
    mov eax, 0xfec00000
    mov dword ptr [eax], 0x23
    mov dword ptr [eax + 0x10], 0
    mov dword ptr [eax], 0x22
    mov dword ptr [eax + 0x10], 0x30

    /* the disk: VERSION_1, one queue of 32, no interrupts */
    mov edi, 0x200000
    xor eax, eax
    mov ecx, 0x1400
    rep stosd
    mov word ptr [edi - 0x4000], 1
    mov ebx, 0xeb008000
    mov dword ptr [ebx + 0x10], 0xd0000000
    mov dword ptr [ebx + 0x14], 0
    mov dword ptr [ebx + 4], 6
    mov ebx, 0xd0000000
    mov byte ptr [ebx + 20], 0
keeper_reset:
    pause
    mov al, [ebx + 20]
    test al, al
    jnz keeper_reset
    mov byte ptr [ebx + 20], 1
    mov byte ptr [ebx + 20], 3
    mov dword ptr [ebx + 8], 0
    mov dword ptr [ebx + 12], 0
    mov dword ptr [ebx + 8], 1
    mov dword ptr [ebx + 12], 1
    mov byte ptr [ebx + 20], 0xb
    mov word ptr [ebx + 22], 0
    mov word ptr [ebx + 24], 32
    mov dword ptr [ebx + 32], 0x200000
    mov dword ptr [ebx + 36], 0
    mov dword ptr [ebx + 40], 0x201000
    mov dword ptr [ebx + 44], 0
    mov dword ptr [ebx + 48], 0x202000
    mov dword ptr [ebx + 52], 0
    mov word ptr [ebx + 28], 1
    mov byte ptr [ebx + 20], 0xf

    /* its sector, as it was left */
    xor eax, eax
    mov edx, 3
    call keeper_request
    mov ebx, 0x204000
    inc dword ptr [ebx]
    mov dx, 0x3f8
    mov al, 'b'
    out dx, al
    mov al, 'o'
    out dx, al
    out dx, al
    mov al, 't'
    out dx, al
    mov esi, [ebx]
    call keeper_say
    mov esi, [ebx + 4]
    call keeper_say
    mov al, 10
    out dx, al

keeper_count:
    mov ebx, 0x204000
    inc dword ptr [ebx + 4]
    mov eax, 1
    mov edx, 1
    call keeper_request
    cmp ebp, 1
    je keeper_count
    mov ebx, 0x205000
    cmp dword ptr [ebx], 0
    je keeper_count
keeper_off:
    mov dx, 0x600
    mov al, 0x34
    out dx, al
keeper_halt:
    hlt
    jmp keeper_halt

    /* eax: 0 reads, 1 writes the sector; edx: the flags of its descriptor. Returns at the tick after
       its completion */
keeper_request:
    mov ebx, 0x203000
    mov [ebx], eax
    mov byte ptr [ebx + 16], 0xff
    mov edi, 0x200000
    mov [edi], ebx
    mov dword ptr [edi + 8], 16
    mov dword ptr [edi + 12], 0x10001
    mov dword ptr [edi + 16], 0x204000
    mov dword ptr [edi + 24], 512
    or edx, 0x20000
    mov [edi + 28], edx
    lea eax, [ebx + 16]
    mov [edi + 32], eax
    mov dword ptr [edi + 40], 1
    mov dword ptr [edi + 44], 2
    inc word ptr [edi + 0x1002]
    lock or dword ptr [esp], 0
    test word ptr [edi + 0x2000], 1
    jnz keeper_wait
    mov eax, 0xd0000000
    mov word ptr [eax + 0x3000], 0
keeper_wait:
    sti
    hlt
    mov ax, [edi + 0x2002]
    cmp ax, [edi + 0x1002]
    jne keeper_wait
    cmp byte ptr [ebx + 16], 0
    je keeper_done
    mov dx, 0x3f8
    mov al, 'F'
    out dx, al
    mov al, 10
    out dx, al
    jmp keeper_off
keeper_done:
    ret

    /* says a blank and esi in hexadecimal digits */
keeper_say:
    mov dx, 0x3f8
    mov al, 0x20
    out dx, al
    mov ecx, 8
keeper_digit:
    rol esi, 4
    mov eax, esi
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe keeper_decimal
    add al, 39
keeper_decimal:
    out dx, al
    loop keeper_digit
    ret

keeper_button:
    push eax
    mov eax, 0x205000
    mov dword ptr [eax], 1
    pop eax
keeper_tick:
    push eax
    mov eax, 0xfee000b0
    mov dword ptr [eax], 0
    pop eax
    /* nothing but the wait is ever interrupted, and it needs no flags: not every KVM has an iret */
    ret 8
no_os_keeper_end:
    .set keeper_to_button, keeper_button - keeper_here
    .set keeper_to_tick, keeper_tick - keeper_here
    .code64
    .text
    "#
);

mod image {
    unsafe extern "C" {
        safe static no_os_keeper_start: u8;
        safe static no_os_keeper_end: u8;
    }

    /// The assembled code.
    pub(super) fn code() -> &'static [u8] {
        let start = &raw const no_os_keeper_start;
        let len = (&raw const no_os_keeper_end).addr() - start.addr();
        // SAFETY: both symbols are in one section of constant data, the second behind the first, and
        // all between them is what was assembled above.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

/// The guest; one that is deaf ignores the button.
pub(super) fn code(is_deaf: bool) -> Vec<u8> {
    let mut code = vec![0xbd, u8::from(is_deaf), 0, 0, 0]; // mov ebp, is_deaf
    code.extend(image::code());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeper_is_assembled_for_32_bits() {
        // mov ebp, 1; cld; mov esp, 0x80000
        assert_eq!(code(true)[..11], [0xbd, 1, 0, 0, 0, 0xfc, 0xbc, 0, 0, 8, 0]);
    }
}
