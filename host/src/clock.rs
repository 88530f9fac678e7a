// SPDX-License-Identifier: Apache-2.0
//! The one clock that all processes of a VM share.

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds. Answered by the vDSO: no system call.
pub fn monotonic_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}
