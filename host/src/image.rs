// SPDX-License-Identifier: Apache-2.0
//! This program as it lies in memory, told by its own program headers. (System V gABI, "Program
//! Header".)

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, ProtFlags, madvise, mprotect};

unsafe extern "C" {
    /// The first byte of the file, which the linker names; only its address is of interest.
    static __ehdr_start: u8;
}

/// Makes what only relocation writes, such as tables of functions, read-only from now on
/// (PT_GNU_RELRO). glibc has done so before `main`; musl does not in a static program.
pub fn seal() {
    for relro in of_kind(libc::PT_GNU_RELRO) {
        let Range { start, end } = place(relro);
        // It begins where what can be written does, whose first page is nobody else's. On its last
        // page something may begin that is written for ever.
        let (first, len_bytes) = pages(start - start % page_bytes()..end - end % page_bytes());
        // It could fail in a process with as many mappings as it may have; this one has a few yet.
        // SAFETY: whole pages up to the end of what is written by relocation only, which is over.
        let _ = unsafe { mprotect(first, len_bytes, ProtFlags::PROT_READ) };
    }
}

/// Gives back the pages of code and constants that have been used once: those of a start, when it is
/// over. What is needed again is found in the page cache, a few pages at a time.
pub fn let_go() {
    for segment in of_kind(libc::PT_LOAD).filter(|it| it.p_flags & libc::PF_W == 0) {
        let Range { start, end } = place(segment);
        // A page on which another segment begins or ends is left alone: that may be one with data.
        let start = start.next_multiple_of(page_bytes());
        let (first, len_bytes) = pages(start..end - end % page_bytes());
        // SAFETY: whole pages of a segment that cannot be written, and that relocation does not
        // write: what is dropped is read from the file again, unchanged, when touched.
        let _ = unsafe { madvise(first, len_bytes, MmapAdvise::MADV_DONTNEED) };
    }
}

/// This program's headers of one kind.
fn of_kind(kind: u32) -> impl Iterator<Item = &'static libc::Elf64_Phdr> {
    headers().iter().filter(move |it| it.p_type == kind)
}

fn headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: getauxval takes an integer.
    let value = |kind| unsafe { libc::getauxval(kind) };
    let address = usize::try_from(value(libc::AT_PHDR)).unwrap_or_default();
    let count = usize::try_from(value(libc::AT_PHNUM)).unwrap_or_default();
    let Some(first) = NonNull::new(std::ptr::with_exposed_provenance_mut(address)) else {
        return &[];
    };
    // SAFETY: the kernel says that so many are there, in a segment that nobody writes to for as long
    // as the program runs. (getauxval(3))
    unsafe { std::slice::from_raw_parts(first.as_ptr(), count) }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf takes an integer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Where in memory it is. The program may be anywhere; the segment with the file's first byte tells
/// how far it is from where it was linked for.
fn place(header: &libc::Elf64_Phdr) -> Range<usize> {
    let number = |bytes: u64| usize::try_from(bytes).unwrap_or_default();
    let linked = of_kind(libc::PT_LOAD).find(|it| it.p_offset == 0);
    let linked = linked.map_or(0, |it| number(it.p_vaddr));
    let offset = (&raw const __ehdr_start).addr().wrapping_sub(linked);
    let begin = offset.wrapping_add(number(header.p_vaddr));
    begin..begin + number(header.p_memsz)
}

/// A range of pages as system calls take it: address and length in bytes.
fn pages(range: Range<usize>) -> (NonNull<c_void>, usize) {
    let first = std::ptr::with_exposed_provenance_mut(range.start);
    (
        NonNull::new(first).unwrap_or(NonNull::dangling()),
        range.end.saturating_sub(range.start),
    )
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::os::unix::fs::FileExt as _;

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

    /// Whether the page at `address` is mapped right now. (Documentation/admin-guide/mm/pagemap.rst)
    fn is_present(address: usize) -> bool {
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        let mut entry = [0; 8];
        let at = u64::try_from(address / page_bytes() * 8).unwrap();
        map.read_exact_at(&mut entry, at).unwrap();
        u64::from_ne_bytes(entry) >> 63 == 1
    }

    #[test]
    fn what_was_let_go_is_there_when_needed() {
        // So much that its middle is mapped by nobody who needs something beside it.
        static CONSTANTS: [u8; 1 << 20] = [0x5a; 1 << 20];
        let middle = &raw const CONSTANTS[1 << 19];
        assert_eq!(black_box(CONSTANTS[1 << 19]), 0x5a);
        assert!(is_present(middle.addr()));
        let_go();
        assert!(!is_present(middle.addr()));
        assert_eq!(black_box(CONSTANTS[1 << 19]), 0x5a);
        assert_eq!(permissions(let_go as *const () as usize), "r-xp");
    }
}
