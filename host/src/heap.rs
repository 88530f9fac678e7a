// SPDX-License-Identifier: Apache-2.0
//! The global allocator of each of our programs.
//!
//! One heap for all threads, in pages from mmap(2), mremap(2) and munmap(2), which the seccomp
//! filters allow. musl's own allocator maps and unmaps memory so often that it slows a short
//! program down; glibc's has a heap for each thread, which costs memory. The data paths do not
//! allocate, so one lock is enough.

pub use dlmalloc::GlobalDlmalloc as Heap;
