// SPDX-License-Identifier: Apache-2.0
//! The guest that drives and verifies disks.
#![allow(unsafe_code)] // the assembler's output is data, found by its symbols

use core::arch::global_asm;

// Memory of disk 0 is at 2 MiB, of disk 1 at 3 MiB, the stack below 512 KiB. In the memory of a disk:
//   0x0000 descriptors, three for each slot   0x1000 available ring   0x2000 used ring
//   0x3000 slots of 64 bytes: 0 header, 16 status, 20 phase (0 idle, 1 write, 2 read), 24 write number,
//          28 block
//   0x4000 the used index up to which was looked   0x4004 its BAR   0x4008 its configuration space
//   0x400c its digit   0x4010 how many are still taken back in this visit
//   0x10000 data of the slots
// ebp is the memory of the disk that is looked after.
global_asm!(
    r#"
    .section .rodata.no_os_verifier, "a"
    .code32

    /* a word of a message to COM1; changes eax, edx */
    .macro verifier_put byte
        mov dx, 0x3f8
        mov al, \byte
        out dx, al
    .endm

    .globl no_os_verifier_start
    .globl no_os_verifier_end
no_os_verifier_start:
    cld
    mov esp, 0x80000
    mov ebp, 0x200000
    mov dword ptr [ebp + 0x4004], 0xd0000000
    mov dword ptr [ebp + 0x4008], 0xeb008000
    mov dword ptr [ebp + 0x400c], '0'
    call verifier_begin
    mov ebp, 0x300000
    mov dword ptr [ebp + 0x4004], 0xd0010000
    mov dword ptr [ebp + 0x4008], 0xeb010000
    mov dword ptr [ebp + 0x400c], '1'
    call verifier_begin

verifier_loop:
    mov dx, 0x3fd
    in al, dx
    test al, 1
    jz verifier_look
    mov dx, 0x3f8
    in al, dx
    cmp al, 'R'
    je verifier_reboot
    cmp al, 'Q'
    je verifier_off
    mov ebp, 0x200000
    cmp al, '0'
    je verifier_reset
    mov ebp, 0x300000
    cmp al, '1'
    jne verifier_look
verifier_reset:
    call verifier_begin
verifier_look:
    mov ebp, 0x200000
    call verifier_reap
    mov ebp, 0x300000
    call verifier_reap
    pause
    jmp verifier_loop

verifier_reboot:
    mov dx, 0x602
    mov al, 1
    out dx, al
verifier_halt:
    hlt
    jmp verifier_halt
verifier_off:
    mov dx, 0x600
    mov al, 0x34
    out dx, al
    jmp verifier_halt

    /* resets the disk, makes its queue anew and starts a write in each slot */
verifier_begin:
    mov ebx, [ebp + 0x4008]
    mov eax, [ebp + 0x4004]
    mov [ebx + 0x10], eax
    mov dword ptr [ebx + 0x14], 0
    mov dword ptr [ebx + 4], 6
    mov ebx, eax
    mov byte ptr [ebx + 20], 0
verifier_begin_wait:
    pause
    mov al, [ebx + 20]
    test al, al
    jnz verifier_begin_wait
    mov edi, ebp
    xor eax, eax
    mov ecx, 0xc00
    rep stosd
    mov dword ptr [ebp + 0x4000], 0
    /* nothing is asked for by interrupt */
    mov word ptr [ebp + 0x1000], 1
    mov byte ptr [ebx + 20], 1
    mov byte ptr [ebx + 20], 3
    mov dword ptr [ebx + 8], 0
    mov dword ptr [ebx + 12], 0
    mov dword ptr [ebx + 8], 1
    mov dword ptr [ebx + 12], 1
    mov byte ptr [ebx + 20], 0xb
    mov word ptr [ebx + 22], 0
    mov word ptr [ebx + 24], 32
    mov [ebx + 32], ebp
    mov dword ptr [ebx + 36], 0
    lea eax, [ebp + 0x1000]
    mov [ebx + 40], eax
    mov dword ptr [ebx + 44], 0
    lea eax, [ebp + 0x2000]
    mov [ebx + 48], eax
    mov dword ptr [ebx + 52], 0
    mov word ptr [ebx + 28], 1
    mov byte ptr [ebx + 20], 0xf
    xor ecx, ecx
verifier_begin_slot:
    call verifier_slot
    rdtsc
    shr eax, 4
    mov [esi + 24], eax
    call verifier_write
    inc ecx
    cmp ecx, 8
    jb verifier_begin_slot
    ret

    /* esi = slot ecx; changes eax */
verifier_slot:
    mov eax, ecx
    shl eax, 6
    lea esi, [ebp + eax + 0x3000]
    ret

    /* edi = data of slot ecx; changes eax */
verifier_data:
    mov eax, ecx
    shl eax, 12
    lea edi, [ebp + eax + 0x10000]
    ret

    /* eax = the first word of what slot esi writes; changes edx */
verifier_key:
    mov eax, [esi + 24]
    mov edx, [esi + 28]
    shl edx, 24
    xor eax, edx
    ret

    /* the next write in slot ecx, esi */
verifier_write:
    inc dword ptr [esi + 24]
    mov eax, [esi + 24]
    and eax, 15
    mov edx, ecx
    shl edx, 4
    add eax, edx
    mov [esi + 28], eax
    call verifier_data
    call verifier_key
    push ecx
    mov ecx, 1024
verifier_write_fill:
    stosd
    inc eax
    loop verifier_write_fill
    pop ecx
    mov dword ptr [esi + 20], 1
    mov dword ptr [esi], 1
    mov edx, 1
    jmp verifier_submit

    /* reads back what was written in slot ecx, esi */
verifier_read:
    call verifier_data
    push ecx
    mov eax, 0xeeeeeeee
    mov ecx, 1024
    rep stosd
    pop ecx
    mov dword ptr [esi + 20], 2
    mov dword ptr [esi], 0
    mov edx, 3

    /* submits slot ecx, esi; edx has the flags of the descriptor of the data */
verifier_submit:
    push edx
    mov dword ptr [esi + 4], 0
    mov eax, [esi + 28]
    shl eax, 3
    mov [esi + 8], eax
    mov dword ptr [esi + 12], 0
    mov byte ptr [esi + 16], 0xff
    call verifier_data
    lea ebx, [ecx + ecx * 2]
    mov eax, ebx
    shl eax, 4
    add eax, ebp
    pop edx
    mov [eax], esi
    mov dword ptr [eax + 4], 0
    mov dword ptr [eax + 8], 16
    mov word ptr [eax + 12], 1
    inc ebx
    mov word ptr [eax + 14], bx
    mov [eax + 16], edi
    mov dword ptr [eax + 20], 0
    mov dword ptr [eax + 24], 4096
    mov word ptr [eax + 28], dx
    inc ebx
    mov word ptr [eax + 30], bx
    lea edx, [esi + 16]
    mov [eax + 32], edx
    mov dword ptr [eax + 36], 0
    mov dword ptr [eax + 40], 1
    mov dword ptr [eax + 44], 2
    sub ebx, 2
    movzx eax, word ptr [ebp + 0x1002]
    mov edx, eax
    and edx, 31
    mov word ptr [ebp + edx * 2 + 0x1004], bx
    inc eax
    mov word ptr [ebp + 0x1002], ax
    lock or dword ptr [esp], 0
    test word ptr [ebp + 0x2000], 1
    jnz verifier_submitted
    mov eax, [ebp + 0x4004]
    mov word ptr [eax + 0x3000], 0
verifier_submitted:
    ret

    /* takes back what the disk has used: at most one for each slot, because a fast disk uses the next
       while the last is verified, and orders are heard between two visits only */
verifier_reap:
    mov dword ptr [ebp + 0x4010], 8
verifier_reap_next:
    dec dword ptr [ebp + 0x4010]
    js verifier_submitted
    mov eax, [ebp + 0x4000]
    cmp ax, word ptr [ebp + 0x2002]
    je verifier_submitted
    and eax, 31
    mov eax, [ebp + eax * 8 + 0x2004]
    inc word ptr [ebp + 0x4000]
    xor edx, edx
    mov ecx, 3
    div ecx
    test edx, edx
    jnz verifier_bad_used
    cmp eax, 8
    jae verifier_bad_used
    mov ecx, eax
    call verifier_slot
    mov eax, [esi + 20]
    mov dword ptr [esi + 20], 0
    test eax, eax
    jz verifier_bad_used
    cmp byte ptr [esi + 16], 0
    jne verifier_bad_status
    cmp eax, 1
    je verifier_reap_written
    call verifier_data
    call verifier_key
    push ecx
    mov ecx, 1024
verifier_compare:
    scasd
    jne verifier_bad_content
    inc eax
    loop verifier_compare
    pop ecx
    call verifier_write
    jmp verifier_reap_next
verifier_reap_written:
    call verifier_read
    jmp verifier_reap_next

verifier_bad_used:
    mov ebx, 'u'
    jmp verifier_fault
verifier_bad_status:
    mov ebx, 's'
    jmp verifier_fault
verifier_bad_content:
    mov ebx, 'c'
verifier_fault:
    verifier_put 'F'
    verifier_put 'A'
    verifier_put 'U'
    verifier_put 'L'
    verifier_put 'T'
    verifier_put 0x20
    verifier_put bl
    mov ecx, [ebp + 0x400c]
    verifier_put cl
    verifier_put 10
    jmp verifier_off
no_os_verifier_end:
    .code64
    .text
    "#
);

mod image {
    unsafe extern "C" {
        safe static no_os_verifier_start: u8;
        safe static no_os_verifier_end: u8;
    }

    /// The assembled code.
    pub(super) fn code() -> &'static [u8] {
        let start = &raw const no_os_verifier_start;
        let len = (&raw const no_os_verifier_end).addr() - start.addr();
        // SAFETY: both symbols are in one section of constant data, the second behind the first, and
        // all between them is what was assembled above.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

/// The guest.
pub(super) fn code() -> &'static [u8] {
    image::code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_is_assembled_for_32_bits() {
        // cld; mov esp, 0x80000
        assert_eq!(code()[..6], [0xfc, 0xbc, 0, 0, 8, 0]);
    }
}
