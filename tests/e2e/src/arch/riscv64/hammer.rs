// SPDX-License-Identifier: Apache-2.0
//! A guest that means harm: it accesses registers of every device with pseudo-random values and widths
//! until its count is used up, then goes on with what follows it in the kernel. Traps skip the
//! instruction that caused them.
//!
//! What it must not touch is pvpanic, by which it would end. Nothing is misaligned, which KVM takes for
//! its end, too.
#![allow(unsafe_code)] // assembler, whose output is data

use core::arch::global_asm;

use crate::arch::hammer_code;

// s0: the random number; s1: accesses left; s2: what decides where and how; s3: where; s4: the address.
// Memory from 8 to 12 MiB is the hammer's to spoil.
global_asm!(
    r#"
    .section .rodata.no_os_hammer, "a"
    .option push
    .option norvc
    .option norelax

    .macro hammer_random
        slliw t0, s0, 13
        xor s0, s0, t0
        srliw t0, s0, 17
        xor s0, s0, t0
        slliw t0, s0, 5
        xor s0, s0, t0
        sext.w s0, s0
    .endm
    .macro hammer_at base, mask
        li t1, \mask
        and t1, s3, t1
        li s4, \base
        add s4, s4, t1
    .endm
    .macro hammer_below count, place
        li t1, \count
        bltu t0, t1, \place
    .endm

    .globl no_os_hammer_start
    .globl no_os_hammer_end
no_os_hammer_start:
    auipc t0, 0
    addi t0, t0, 20
    csrw stvec, t0
    j hammer_next
    nop
    /* 20 bytes behind the auipc: skips an instruction */
    csrr t0, sepc
    addi t0, t0, 4
    csrw sepc, t0
    sret
hammer_next:
    addiw s1, s1, -1
    bnez s1, hammer_goes_on
    j hammer_done
hammer_goes_on:
    hammer_random
    mv s2, s0
    hammer_random
    srliw s3, s2, 8
    andi t0, s2, 31
    hammer_below 4, hammer_wired
    hammer_below 8, hammer_config
    hammer_below 14, hammer_common
    hammer_below 16, hammer_bar
    hammer_below 18, hammer_doorbell
    hammer_below 21, hammer_msix
    hammer_below 23, hammer_controller
    hammer_below 25, hammer_ram
    hammer_below 26, hammer_move
    j hammer_drive

    /* the serial port and the clock */
hammer_wired:
    hammer_at 0x10000000, 0x1ffff
    j hammer_memory

    /* configuration space: mostly registers that exist */
hammer_config:
    hammer_at 0x30000000, 0x180ff
    srli t0, s3, 20
    andi t0, t0, 1
    beqz t0, hammer_config_known
    hammer_at 0x30000000, 0xfffff
hammer_config_known:
    j hammer_memory

    /* common configuration of the two devices */
hammer_common:
    hammer_at 0x50000000, 0x1003f
    j hammer_memory
hammer_bar:
    hammer_at 0x50000000, 0x1ffff
    j hammer_memory
hammer_doorbell:
    hammer_at 0x50003000, 0x1001c
    j hammer_memory
hammer_msix:
    hammer_at 0x50008000, 0x1003f
    j hammer_memory

    /* the PLIC or IMSICs, or the APLIC: by 4 bytes, as hardware has them */
hammer_controller:
    hammer_at 0x08000000, 0x3ffffc
    bltz s0, hammer_controller_known
    hammer_at 0x0d000000, 0x3ffc
hammer_controller_known:
    andi t0, s2, 0x20
    beqz t0, hammer_controller_written
    lw t0, 0(s4)
    j hammer_next
hammer_controller_written:
    sw s0, 0(s4)
    j hammer_next
hammer_ram:
    hammer_at 0x80800000, 0x3fffff

    /* an access at s4 of 1, 2 or 4 bytes */
hammer_memory:
    andi t0, s2, 0x20
    andi t1, s2, 0x40
    andi t2, s2, 0x80
    bnez t0, hammer_load
    beqz t1, hammer_store_word
    beqz t2, hammer_store_half
    sb s0, 0(s4)
    j hammer_next
hammer_store_half:
    andi s4, s4, -2
    sh s0, 0(s4)
    j hammer_next
hammer_store_word:
    andi s4, s4, -4
    sw s0, 0(s4)
    j hammer_next
hammer_load:
    beqz t1, hammer_load_word
    lbu t0, 0(s4)
    j hammer_next
hammer_load_word:
    andi s4, s4, -4
    lw t0, 0(s4)
    j hammer_next

    /* the BAR of device 1 or 2 goes onto RAM, the other BAR, the controller, ECAM or anywhere */
hammer_move:
    hammer_at 0x30008000, 0x8000
    li t0, 6
    sw t0, 4(s4)
    li t0, 0x80800000
    andi t1, s3, 1
    beqz t1, hammer_move_low
    li t0, 0x50010000
    andi t1, s3, 2
    beqz t1, hammer_move_low
    li t0, 0x08000000
    andi t1, s3, 4
    beqz t1, hammer_move_low
    li t0, 0x30000000
    andi t1, s3, 8
    beqz t1, hammer_move_low
    mv t0, s0
hammer_move_low:
    sw t0, 0x10(s4)
    li t0, 0
    andi t1, s3, 0x30
    bnez t1, hammer_move_high
    mv t0, s0
hammer_move_high:
    sw t0, 0x14(s4)
    j hammer_next

    /* device 1 or 2 as a driver starts it, with queue 0 anywhere in the memory to spoil */
hammer_drive:
    andi t0, s3, 1
    slli t1, t0, 15
    li t2, 0x30008000
    add t2, t2, t1
    slli t1, t0, 16
    li s4, 0x50000000
    add s4, s4, t1
    sw s4, 0x10(t2)
    sw zero, 0x14(t2)
    li t0, 6
    sw t0, 4(t2)
    sb zero, 20(s4)
    lbu t0, 20(s4)
    li t0, 1
    sb t0, 20(s4)
    li t0, 3
    sb t0, 20(s4)
    sw zero, 8(s4)
    li t0, 0x30000000
    sw t0, 12(s4)
    li t0, 1
    sw t0, 8(s4)
    sw t0, 12(s4)
    li t0, 0xb
    sb t0, 20(s4)
    sh zero, 22(s4)
    li t0, 16
    sh t0, 24(s4)
    sh zero, 26(s4)
    li t0, 0x3ffff0
    and t0, s0, t0
    li t1, 0x80800000
    add t0, t0, t1
    sw t0, 32(s4)
    sw zero, 36(s4)
    li t1, 0x3000
    xor t0, t0, t1
    sw t0, 40(s4)
    sw zero, 44(s4)
    li t1, 0x5000
    xor t0, t0, t1
    sw t0, 48(s4)
    sw zero, 52(s4)
    li t0, 1
    sh t0, 28(s4)
    li t0, 0xf
    sb t0, 20(s4)
    li t0, 0x3000
    add t0, t0, s4
    sh zero, 0(t0)
    j hammer_next

hammer_done:
    .option pop
no_os_hammer_end:
    .text
    "#
);

/// The hammer, beginning with `seed`, with so many accesses.
pub(super) fn code(seed: u32, accesses: u32) -> Vec<u8> {
    const S0: u32 = 8;
    const S1: u32 = 9;
    // Not zero, or all numbers are.
    let mut code = super::no_os::load(S0, seed.max(1));
    code.extend(super::no_os::load(S1, accesses));
    code.extend(hammer_code::assembled());
    code
}
