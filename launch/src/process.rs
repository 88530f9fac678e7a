// SPDX-License-Identifier: Apache-2.0
//! What every child does to itself first.

/// Makes malloc use one heap for all threads. A heap for each would grow by mprotect, which the
/// filters need not allow, and would cost memory in processes that are measured by the page.
#[allow(unsafe_code)]
pub fn use_one_heap() {
    // SAFETY: mallopt only sets a parameter of the allocator; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
