// SPDX-License-Identifier: Apache-2.0
//! How far each kind of process is let out: what of its jail depends on what it is. All the rest is
//! the same for everybody and in `supervisor/child.rs`.

pub(crate) mod blk;
pub(crate) mod net;
pub(crate) mod vmm;

/// What a process may write to the log, whatever else it writes; a log that became longer is cut.
pub(crate) const LOG_BYTES_MAX: u64 = 256 << 20;

/// What of a jail depends on the kind of process in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Which of the VM's users it is; the supervisor is the first, 0.
    pub(crate) user: u8,
    /// RLIMIT_NOFILE.
    pub(crate) descriptors_max: u64,
    /// RLIMIT_FSIZE, which is about whatever is written to, not what is mapped.
    pub(crate) file_bytes_max: u64,
    /// What is added to its badness when memory runs out: a backend can be replaced, a vmm cannot.
    pub(crate) oom_score_adj: i32,
}
