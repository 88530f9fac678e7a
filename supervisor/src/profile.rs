// SPDX-License-Identifier: Apache-2.0
//! The part of a jail that depends on the kind of process. All the rest is the same for every
//! child, and in [`crate::child`].

pub(crate) mod blk;
pub(crate) mod net;
pub(crate) mod vmm;

/// How long any process may make the log. The supervisor cuts a log that is longer.
pub(crate) const LOG_BYTES_MAX: u64 = 256 << 20;

/// The part of a jail that depends on the kind of process in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Which of the VM's users it runs as; the supervisor is user 0.
    pub(crate) user: u8,
    /// RLIMIT_NOFILE.
    pub(crate) descriptors_max: u64,
    /// RLIMIT_FSIZE, which limits writes to files, not what is mapped.
    pub(crate) file_bytes_max: u64,
    /// oom_score_adj: the kernel should kill a backend, which can be replaced, before a vmm.
    pub(crate) oom_score_adj: i32,
}
