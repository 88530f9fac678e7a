// SPDX-License-Identifier: Apache-2.0
//! The guest that takes orders about its interrupts: see [`crate::no_os_kernel::interrupts`].
#![allow(unsafe_code)] // the assembler's output is data, found by its symbols

use core::arch::global_asm;

// Memory: the stack below 512 KiB;
//   0x200000 descriptors   0x201000 available ring   0x202000 used ring
//   0x203000 header, status at +16   0x204000 the sector   0x205000 sixteen counters
//   0x205040 the deadline that was set last   0x205048 whether interrupts are kept off
//   0x206000 what lidt loads   0x207000 the interrupt table
// Vectors 0x40 to 0x47 are counted by their last digit. They are taken only between two orders.
global_asm!(
    r#"
    .section .rodata.no_os_interrupts, "a"
    .code32

    .macro irq_stub number
    .p2align 5
    push eax
    mov eax, \number
    jmp irq_common
    .endm

    .macro irq_order byte, label
    cmp al, \byte
    je \label
    .endm

    .globl no_os_interrupts_start
    .globl no_os_interrupts_end
no_os_interrupts_start:
    cld
    mov esp, 0x80000

    /* the interrupt table, and the local APIC */
    call irq_here
irq_here:
    pop eax
    lea ebx, [eax + irq_to_stubs]
    mov edi, 0x207200
    mov ecx, 8
irq_gate:
    mov edx, ebx
    and edx, 0xffff
    or edx, 0x100000
    mov [edi], edx
    mov edx, ebx
    and edx, 0xffff0000
    or edx, 0x8e00
    mov [edi + 4], edx
    add edi, 8
    add ebx, 32
    loop irq_gate
    mov eax, 0x206000
    mov word ptr [eax], 0x23f
    mov dword ptr [eax + 2], 0x207000
    lidt [eax]
    mov edi, 0x205000
    xor eax, eax
    mov ecx, 32
    rep stosd
    mov eax, 0xfee00000
    mov dword ptr [eax + 0xf0], 0x147
    mov dword ptr [eax + 0x3e0], 0xb

irq_loop:
    /* some time for interrupts, unless they are kept off */
    mov ecx, 0x205048
    cmp dword ptr [ecx], 0
    jne irq_look
    mov ecx, 1000
    sti
irq_window:
    loop irq_window
    cli
irq_look:
    mov dx, 0x3fd
    in al, dx
    test al, 1
    jz irq_loop
    mov dx, 0x3f8
    in al, dx
    push eax
    call irq_obey
    pop eax
    /* the order, esi in hexadecimal digits, and a newline */
    mov dx, 0x3f8
    out dx, al
    mov ecx, 8
irq_digit:
    rol esi, 4
    mov eax, esi
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe irq_decimal
    add al, 39
irq_decimal:
    out dx, al
    loop irq_digit
    mov al, 10
    out dx, al
    jmp irq_loop

irq_obey:
    xor esi, esi
    irq_order 'm', irq_messages
    irq_order 'l', irq_line
    irq_order 's', irq_submit
    irq_order 'p', irq_pending
    irq_order 'n', irq_other_vector
    irq_order 'u', irq_unmask
    irq_order 'r', irq_line_entry
    irq_order 'w', irq_keep_off
    irq_order 'k', irq_masked_edge
    irq_order 'o', irq_unmask_edge
    irq_order 'a', irq_once
    irq_order 'b', irq_periodic
    irq_order 'd', irq_deadline
    irq_order 'x', irq_no_timer
    irq_order 'Q', irq_off
    sub al, '0'
    cmp al, 9
    ja irq_return
    movzx eax, al
    mov esi, [eax * 4 + 0x205000]
irq_return:
    ret
irq_off:
    mov dx, 0x600
    mov al, 0x34
    out dx, al
irq_halt:
    hlt
    jmp irq_halt

    /* the disk anew; its interrupts are messages, and both vectors are masked */
irq_messages:
    call irq_disk
    mov ebx, 0xeb008000
    movzx ecx, byte ptr [ebx + 0x34]
irq_find:
    cmp byte ptr [ebx + ecx], 0x11
    je irq_found
    movzx ecx, byte ptr [ebx + ecx + 1]
    jmp irq_find
irq_found:
    mov word ptr [ebx + ecx + 2], 0x8000
    mov ebx, 0xd0008000
    mov dword ptr [ebx], 0xfee00000
    mov dword ptr [ebx + 8], 0x40
    mov dword ptr [ebx + 12], 1
    mov dword ptr [ebx + 16], 0xfee00000
    mov dword ptr [ebx + 24], 0x41
    mov dword ptr [ebx + 28], 1
    xor eax, eax
    jmp irq_map
    /* its queue's interrupts come by the other vector */
irq_other_vector:
    mov eax, 1
irq_map:
    mov ebx, 0xd0000000
    mov word ptr [ebx + 22], 0
    mov word ptr [ebx + 26], ax
    movzx esi, word ptr [ebx + 26]
    ret
irq_pending:
    mov ebx, 0xd000c000
    mov esi, [ebx]
    ret
irq_unmask:
    mov ebx, 0xd0008000
    mov dword ptr [ebx + 12], 0
    ret

    /* the disk anew; its interrupts are a line, level-triggered at pin 17 */
irq_line:
    call irq_disk
    mov eax, 0xfec00000
    mov dword ptr [eax], 0x32
    mov dword ptr [eax + 0x10], 0x8042
irq_line_entry:
    mov eax, 0xfec00000
    mov dword ptr [eax], 0x32
    mov esi, [eax + 0x10]
    ret
    /* keeps interrupts off, or takes them again */
irq_keep_off:
    mov ecx, 0x205048
    xor dword ptr [ecx], 1
    mov esi, [ecx]
    ret

    /* an edge of the serial port, which has nothing to send, at the masked pin 4 */
irq_masked_edge:
    mov eax, 0xfec00000
    mov dword ptr [eax], 0x18
    mov dword ptr [eax + 0x10], 0x10043
    mov dx, 0x3f9
    mov al, 2
    out dx, al
    mov al, 0
    out dx, al
    ret
irq_unmask_edge:
    mov eax, 0xfec00000
    mov dword ptr [eax], 0x18
    mov dword ptr [eax + 0x10], 0x43
    ret

    /* the timer: every millisecond, set anew each time; or periodic; or by deadlines, if there are any */
irq_once:
    mov ecx, 0x44
    jmp irq_timer
irq_periodic:
    mov ecx, 0x20045
    jmp irq_timer
irq_no_timer:
    mov ecx, 0x10044
irq_timer:
    mov eax, 0xfee00000
    mov [eax + 0x320], ecx
    mov dword ptr [eax + 0x380], 1000000
    ret
irq_deadline:
    mov eax, 1
    xor ecx, ecx
    cpuid
    bt ecx, 24
    jnc irq_return
    mov esi, 1
    mov eax, 0xfee00000
    mov dword ptr [eax + 0x320], 0x40046
irq_next_deadline:
    rdtsc
    add eax, 2000000
    adc edx, 0
    mov ecx, 0x205040
    mov [ecx], eax
    mov [ecx + 4], edx
    mov ecx, 0x6e0
    wrmsr
    ret

    /* resets the disk, and makes its queue anew, which has no vector; the rest of each address is 0 then */
irq_disk:
    mov edi, 0x200000
    xor eax, eax
    mov ecx, 0x1400
    rep stosd
    mov ebx, 0xeb008000
    mov dword ptr [ebx + 0x10], 0xd0000000
    mov dword ptr [ebx + 0x14], 0
    mov dword ptr [ebx + 4], 6
    mov ebx, 0xd0000000
    mov byte ptr [ebx + 20], 0
irq_reset:
    pause
    mov al, [ebx + 20]
    test al, al
    jnz irq_reset
    mov byte ptr [ebx + 20], 1
    mov byte ptr [ebx + 20], 3
    mov dword ptr [ebx + 8], 1
    mov dword ptr [ebx + 12], 1
    mov byte ptr [ebx + 20], 0xb
    mov word ptr [ebx + 22], 0
    mov word ptr [ebx + 24], 32
    mov dword ptr [ebx + 32], 0x200000
    mov dword ptr [ebx + 40], 0x201000
    mov dword ptr [ebx + 48], 0x202000
    mov word ptr [ebx + 28], 1
    mov byte ptr [ebx + 20], 0xf
    ret

    /* reads the first sector, and waits until it is there; esi is the status */
irq_submit:
    mov ebx, 0x203000
    mov byte ptr [ebx + 16], 0xff
    mov edi, 0x200000
    mov [edi], ebx
    mov dword ptr [edi + 8], 16
    mov dword ptr [edi + 12], 0x10001
    mov dword ptr [edi + 16], 0x204000
    mov dword ptr [edi + 24], 512
    mov dword ptr [edi + 28], 0x20003
    lea eax, [ebx + 16]
    mov [edi + 32], eax
    mov dword ptr [edi + 40], 1
    mov dword ptr [edi + 44], 2
    inc word ptr [edi + 0x1002]
    lock or dword ptr [esp], 0
    mov eax, 0xd0000000
    mov word ptr [eax + 0x3000], 0
irq_wait:
    pause
    mov ax, [edi + 0x2002]
    cmp ax, [edi + 0x1002]
    jne irq_wait
    movzx esi, byte ptr [ebx + 16]
    ret

    .p2align 5
irq_stubs:
    irq_stub 0
    irq_stub 1
    irq_stub 2
    irq_stub 3
    irq_stub 4
    irq_stub 5
    irq_stub 6
    irq_stub 7

    /* counts vector eax; 2 is the disk's line, 7 is spurious; 8 and 9 count timers that came early */
irq_common:
    push ebx
    push ecx
    push edx
    inc dword ptr [eax * 4 + 0x205000]
    mov ebx, 0xfee00000
    cmp eax, 2
    je irq_was_line
    cmp eax, 7
    je irq_done
    cmp eax, 6
    je irq_was_deadline
    cmp eax, 4
    jne irq_eoi
    mov ecx, [ebx + 0x390]
    test ecx, ecx
    jz irq_in_time
    mov ecx, 8
    inc dword ptr [ecx * 4 + 0x205000]
irq_in_time:
    mov dword ptr [ebx + 0x380], 1000000
irq_eoi:
    mov dword ptr [ebx + 0xb0], 0
irq_done:
    pop edx
    pop ecx
    pop ebx
    pop eax
    /* no order is interrupted, so no flags are kept: not every KVM has an iret */
    ret 8
irq_was_line:
    /* reading the disk's interrupt status lowers its line */
    mov ecx, 0xd0001000
    mov al, [ecx]
    jmp irq_eoi
irq_was_deadline:
    rdtsc
    mov ecx, 0x205040
    sub eax, [ecx]
    sbb edx, [ecx + 4]
    jns irq_not_early
    mov ecx, 9
    inc dword ptr [ecx * 4 + 0x205000]
irq_not_early:
    call irq_next_deadline
    jmp irq_eoi
no_os_interrupts_end:
    .set irq_to_stubs, irq_stubs - irq_here
    .code64
    .text
    "#
);

mod image {
    unsafe extern "C" {
        safe static no_os_interrupts_start: u8;
        safe static no_os_interrupts_end: u8;
    }

    /// The assembled code.
    pub(super) fn code() -> &'static [u8] {
        let start = &raw const no_os_interrupts_start;
        let len = (&raw const no_os_interrupts_end).addr() - start.addr();
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
    fn guest_is_assembled_for_32_bits() {
        // cld; mov esp, 0x80000
        assert_eq!(code()[..6], [0xfc, 0xbc, 0, 0, 8, 0]);
    }
}
