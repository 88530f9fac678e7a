// SPDX-License-Identifier: Apache-2.0
//! A guest that means harm: it accesses registers of every device with pseudo-random values and widths
//! until its count is used up, then goes on with what follows it in the kernel. Exceptions skip the
//! instruction that caused them.
//!
//! What it must not touch is pvpanic, by which it would end.
#![allow(unsafe_code)] // assembler, whose output is data

use core::arch::global_asm;

use crate::arch::hammer_code;

// w19: the random number; w20: accesses left; w21: what decides where and how; w22: where; x23: the
// address. Memory from 8 to 12 MiB is the hammer's to spoil, and the table of vectors at 15 MiB.
global_asm!(
    r#"
    .section .rodata.no_os_hammer, "a"

    .macro hammer_random
        eor w19, w19, w19, lsl #13
        eor w19, w19, w19, lsr #17
        eor w19, w19, w19, lsl #5
    .endm

    .globl no_os_hammer_start
    .globl no_os_hammer_end
no_os_hammer_start:
    movz x9, #0x80f0, lsl #16
    adr x10, hammer_skip
    mov x11, #0
hammer_vector:
    ldr w12, [x10, x11]
    add x13, x9, x11
    str w12, [x13, #0x200]
    add x11, x11, #4
    cmp x11, #16
    b.ne hammer_vector
    msr vbar_el1, x9
    isb
hammer_next:
    subs w20, w20, #1
    b.eq hammer_done
    hammer_random
    mov w21, w19
    hammer_random
    lsr w22, w21, #8
    and w24, w21, #31
    cmp w24, #4
    b.lo hammer_wired
    cmp w24, #8
    b.lo hammer_config
    cmp w24, #14
    b.lo hammer_common
    cmp w24, #16
    b.lo hammer_bar
    cmp w24, #18
    b.lo hammer_doorbell
    cmp w24, #21
    b.lo hammer_msix
    cmp w24, #23
    b.lo hammer_controller
    cmp w24, #25
    b.lo hammer_ram
    cmp w24, #26
    b.lo hammer_move
    b hammer_drive

    /* the serial port and the clock, or the GPIO controller */
hammer_wired:
    movz w23, #0x1000, lsl #16
    and w24, w22, #0x1ffff
    tbz w19, #31, hammer_wired_known
    movz w23, #0x1002, lsl #16
    and w24, w22, #0xfff
hammer_wired_known:
    add w23, w23, w24
    b hammer_memory

    /* configuration space: mostly registers that exist */
hammer_config:
    movz w23, #0x3000, lsl #16
    and w24, w22, #0xff
    and w25, w22, #0x18000
    orr w24, w24, w25
    tbz w22, #20, hammer_config_known
    and w24, w22, #0xfffff
hammer_config_known:
    add w23, w23, w24
    b hammer_memory

    /* common configuration of the two devices */
hammer_common:
    and w23, w22, #0x3f
    b hammer_bar_of
hammer_bar:
    and w23, w22, #0xffff
    b hammer_bar_of
hammer_doorbell:
    and w23, w22, #0x1c
    orr w23, w23, #0x3000
    b hammer_bar_of
hammer_msix:
    and w23, w22, #0x3f
    orr w23, w23, #0x8000
hammer_bar_of:
    and w24, w22, #0x10000
    add w23, w23, w24
    movz w24, #0x5000, lsl #16
    add w23, w23, w24
    b hammer_memory

    /* the distributor, the MSI frame, the ITS or a redistributor, but not the CPU interface */
hammer_controller:
    movz w23, #0x0800, lsl #16
    and w24, w22, #0xffff
    tbz w19, #31, hammer_controller_known
    movz w23, #0x0802, lsl #16
    tbz w19, #30, hammer_controller_known
    movz w23, #0x0804, lsl #16
    and w24, w22, #0x7ffff
hammer_controller_known:
    add w23, w23, w24
    b hammer_memory
hammer_ram:
    movz w23, #0x8080, lsl #16
    and w24, w22, #0x3fffff
    add w23, w23, w24

    /* an access at w23 of 1, 2 or 4 bytes */
hammer_memory:
    tbnz w21, #5, hammer_load
    tbz w21, #6, hammer_store_word
    tbz w21, #7, hammer_store_half
    strb w19, [x23]
    b hammer_next
hammer_store_half:
    and x23, x23, #~1
    strh w19, [x23]
    b hammer_next
hammer_store_word:
    and x23, x23, #~3
    str w19, [x23]
    b hammer_next
hammer_load:
    tbz w21, #6, hammer_load_word
    ldrb w24, [x23]
    b hammer_next
hammer_load_word:
    and x23, x23, #~3
    ldr w24, [x23]
    b hammer_next

    /* the BAR of device 1 or 2 goes onto RAM, the other BAR, the GIC, ECAM or anywhere */
hammer_move:
    and w23, w22, #0x8000
    movz w24, #0x3000, lsl #16
    add w23, w23, w24
    add w23, w23, #8, lsl #12
    mov w25, #6
    str w25, [x23, #4]
    movz w25, #0x8080, lsl #16
    tbz w22, #0, hammer_move_low
    movz w25, #0x5001, lsl #16
    tbz w22, #1, hammer_move_low
    movz w25, #0x0800, lsl #16
    tbz w22, #2, hammer_move_low
    movz w25, #0x3000, lsl #16
    tbz w22, #3, hammer_move_low
    mov w25, w19
hammer_move_low:
    str w25, [x23, #0x10]
    mov w25, #0
    tst w22, #0x30
    b.ne hammer_move_high
    mov w25, w19
hammer_move_high:
    str w25, [x23, #0x14]
    b hammer_next

    /* device 1 or 2 as a driver starts it, with queue 0 anywhere in the memory to spoil */
hammer_drive:
    and w23, w22, #1
    movz w24, #0x3000, lsl #16
    add w24, w24, #8, lsl #12
    add w24, w24, w23, lsl #15
    movz w25, #0x5000, lsl #16
    add w23, w25, w23, lsl #16
    str w23, [x24, #0x10]
    str wzr, [x24, #0x14]
    mov w25, #6
    str w25, [x24, #4]
    strb wzr, [x23, #20]
    ldrb w25, [x23, #20]
    mov w25, #1
    strb w25, [x23, #20]
    mov w25, #3
    strb w25, [x23, #20]
    str wzr, [x23, #8]
    movz w25, #0x3000, lsl #16
    str w25, [x23, #12]
    mov w25, #1
    str w25, [x23, #8]
    str w25, [x23, #12]
    mov w25, #0xb
    strb w25, [x23, #20]
    strh wzr, [x23, #22]
    mov w25, #16
    strh w25, [x23, #24]
    strh wzr, [x23, #26]
    and w25, w19, #0x3ffff0
    movz w26, #0x8080, lsl #16
    add w25, w25, w26
    str w25, [x23, #32]
    str wzr, [x23, #36]
    eor w25, w25, #0x3000
    str w25, [x23, #40]
    str wzr, [x23, #44]
    mov w26, #0x5000
    eor w25, w25, w26
    str w25, [x23, #48]
    str wzr, [x23, #52]
    mov w25, #1
    strh w25, [x23, #28]
    mov w25, #0xf
    strb w25, [x23, #20]
    add x24, x23, #3, lsl #12
    strh wzr, [x24]
    b hammer_next

hammer_skip:
    mrs x0, elr_el1
    add x0, x0, #4
    msr elr_el1, x0
    eret

hammer_done:
no_os_hammer_end:
    .text
    "#
);

/// The hammer, beginning with `seed`, with so many accesses.
pub(super) fn code(seed: u32, accesses: u32) -> Vec<u8> {
    // Not zero, or all numbers are.
    let mut code = super::no_os::load(19, seed.max(1));
    code.extend(super::no_os::load(20, accesses));
    code.extend(hammer_code::assembled());
    code
}
