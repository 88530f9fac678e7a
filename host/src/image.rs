// SPDX-License-Identifier: Apache-2.0
//! This program's own ELF segments in memory, found by its program headers. (System V gABI,
//! "Program Header".)

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, ProtFlags, madvise, mprotect};

unsafe extern "C" {
    /// The first byte of the file, a symbol that the linker defines; only its address is used.
    static __ehdr_start: u8;
}

/// Makes the data that only relocation writes, such as tables of functions, read-only
/// (PT_GNU_RELRO). glibc does so before `main`; musl does not in a static program.
pub fn seal() {
    for relro in of_kind(libc::PT_GNU_RELRO) {
        let Range { start, end } = place(relro);
        // RELRO begins where the writable segment begins, and nothing else is on its first page. On
        // its last page, data may begin that stays writable.
        let (first, len_bytes) = pages(start - start % page_bytes()..end - end % page_bytes());
        // mprotect can fail only at the limit of mappings; this process has few.
        // SAFETY: whole pages up to the end of what is written by relocation only, which is over.
        let _ = unsafe { mprotect(first, len_bytes, ProtFlags::PROT_READ) };
    }
}

/// Drops the pages of code and constants that start-up used, when start-up is over. The kernel
/// reads the ones still needed from the page cache again.
pub fn let_go() {
    for segment in of_kind(libc::PT_LOAD).filter(|it| it.p_flags & libc::PF_W == 0) {
        let Range { start, end } = place(segment);
        // Keep a page on which another segment begins or ends: that segment may be data.
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
    // SAFETY: the kernel says that so many headers are there, in a segment that is never written
    // while the program runs. (getauxval(3))
    unsafe { std::slice::from_raw_parts(first.as_ptr(), count) }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf takes an integer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Where a segment is in memory. The kernel may load the program anywhere; the segment that holds
/// the file's first byte tells the offset from the linked address.
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
        // So much that nothing else maps pages beside its middle.
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
