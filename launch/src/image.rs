// SPDX-License-Identifier: Apache-2.0
//! This program as it lies in memory, told by its own program headers. (System V gABI, "Program
//! Header".)

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, ProtFlags, madvise, mprotect};

unsafe extern "C" {
    /// The file's header, which the linker puts before everything else.
    static __ehdr_start: libc::Elf64_Ehdr;
}

/// Makes what only relocation writes, such as tables of functions, read-only from now on
/// (PT_GNU_RELRO). glibc has done so before `main`; musl does not in a static program.
pub fn seal() {
    for relro in headers()
        .iter()
        .filter(|it| it.p_type == libc::PT_GNU_RELRO)
    {
        let (begin, end) = bounds(relro);
        // What comes behind it may begin on its last page.
        let (begin, len_bytes) = pages(begin, end - end % page_bytes());
        // Cannot fail: the pages are there, and nobody was promised to write to them.
        // SAFETY: the linker put nothing there that is written after relocation, which is over.
        let _ = unsafe { mprotect(begin, len_bytes, ProtFlags::PROT_READ) };
    }
}

/// Gives back the pages of code and constants that have been used once: those of a start, when it is
/// over. What is needed again is found in the page cache, a few pages at a time.
pub fn let_go() {
    let loaded = headers().iter().filter(|it| it.p_type == libc::PT_LOAD);
    for segment in loaded.filter(|it| it.p_flags & libc::PF_W == 0) {
        let (begin, end) = bounds(segment);
        let (begin, len_bytes) = pages(begin, end.next_multiple_of(page_bytes()));
        // SAFETY: private pages of the program's file that cannot be written and never were: what is
        // dropped is read from the file again, unchanged, when touched.
        let _ = unsafe { madvise(begin, len_bytes, MmapAdvise::MADV_DONTNEED) };
    }
}

fn headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: the header is mapped, and nobody writes to it, for as long as the program runs.
    let header = unsafe { &__ehdr_start };
    let offset = usize::try_from(header.e_phoff).unwrap_or_default();
    let first = (&raw const __ehdr_start).wrapping_byte_add(offset).cast();
    // SAFETY: so many headers are there, says the file's, in the same segment.
    unsafe { std::slice::from_raw_parts(first, header.e_phnum.into()) }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf takes an integer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Where in memory it begins and ends. The program may be anywhere; its first byte is the header's.
fn bounds(header: &libc::Elf64_Phdr) -> (usize, usize) {
    let offset = |bytes: u64| usize::try_from(bytes).unwrap_or_default();
    let begin = (&raw const __ehdr_start).addr() + offset(header.p_vaddr);
    (begin, begin + offset(header.p_memsz))
}

/// The pages from the one that `begin` is on to `end`: address and length in bytes.
fn pages(begin: usize, end: usize) -> (NonNull<c_void>, usize) {
    let first = begin - begin % page_bytes();
    let program = (&raw const __ehdr_start).cast_mut().cast::<c_void>();
    let address = program.with_addr(first);
    (
        NonNull::new(address).unwrap_or(NonNull::dangling()),
        end.saturating_sub(first),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The permissions of the page at `address`.
    fn permissions(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let holds = |line: &&str| {
            let (range, _) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(from)..number(to)).contains(&address)
        };
        let line = maps.lines().find(holds).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    }

    #[test]
    fn tables_of_functions_cannot_be_written_once_sealed() {
        trait Answer {
            fn answer(&self) -> u32;
        }
        impl Answer for u32 {
            fn answer(&self) -> u32 {
                *self
            }
        }
        let answer: &dyn Answer = &42;
        // A reference to a trait's object: the object's address, and that of its table.
        // SAFETY: both are addresses, and any value of them is a number.
        let [_, table] = unsafe { std::mem::transmute::<&dyn Answer, [usize; 2]>(answer) };
        seal();
        assert_eq!(permissions(table), "r--p");
        assert_eq!(answer.answer(), 42);
    }

    #[test]
    fn what_was_let_go_is_there_when_needed() {
        let before = headers().len();
        let_go();
        assert_eq!(headers().len(), before);
        assert_eq!(permissions(let_go as *const () as usize), "r-xp");
    }
}
