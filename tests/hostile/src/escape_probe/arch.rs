// SPDX-License-Identifier: Apache-2.0
//! What differs by architecture: ways into the kernel where the same numbers mean other calls, and a
//! call of sigreturn with no frame to return to.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{OTHER_ENTRIES, sigreturn};

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use generic::{OTHER_ENTRIES, sigreturn};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    /// Each makes a harmless call through one of them.
    pub(crate) const OTHER_ENTRIES: &[(&str, fn())] = &[("x32", x32), ("i386", i386)];

    /// getpid, as a program of 64-bit registers and 32-bit pointers calls it.
    fn x32() {
        const X32: libc::c_long = 0x4000_0000;
        // SAFETY: getpid takes nothing.
        unsafe { libc::syscall(X32 | libc::SYS_getpid) };
    }

    /// read, whose number is that of close for a program of 32 bits: of no descriptor.
    fn i386() {
        // SAFETY: the interrupt changes no register but rax; with number 3 and these arguments it reads
        // nothing from nowhere.
        unsafe {
            std::arch::asm!(
                "xchg rbx, {fd}",
                "int 0x80",
                "xchg rbx, {fd}",
                fd = inout(reg) -1_i64 => _,
                inout("rax") 3_i64 => _,
                in("rcx") 0,
                in("rdx") 0,
            );
        }
    }

    /// The end of a signal handler that was never called: with no stack, so that there is nothing to
    /// return to.
    pub(crate) fn sigreturn() {
        // SAFETY: the call does not return: the kernel finds no frame at the top of the address space
        // and ends the process, or its filter does.
        unsafe {
            std::arch::asm!("xor esp, esp", "syscall", "ud2", in("rax") libc::SYS_rt_sigreturn, options(noreturn))
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod generic {
    /// The kernel has one entry.
    pub(crate) const OTHER_ENTRIES: &[(&str, fn())] = &[];

    /// The end of a signal handler that was never called.
    pub(crate) fn sigreturn() {
        // SAFETY: the child only ends after the call, wherever the call returns to.
        unsafe { libc::syscall(libc::SYS_rt_sigreturn) };
    }
}
