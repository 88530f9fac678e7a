// SPDX-License-Identifier: Apache-2.0
//! The allocator that each of our programs names as its global one.
//!
//! One heap for all threads, in pages from mmap(2), mremap(2) and munmap(2), which the filters know.
//! musl's own asks the kernel for memory, and gives it back, so often that a short program is slowed by
//! it; glibc's has a heap for each thread, which costs memory. Nothing is allocated where data flows, so
//! that one lock is enough.

pub use dlmalloc::GlobalDlmalloc as Heap;
