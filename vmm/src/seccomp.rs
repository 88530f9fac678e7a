// SPDX-License-Identifier: Apache-2.0
//! The filters of `seccomp.json`, compiled when the vmm was built: one for the vCPU threads, one for
//! the main thread. Both are installed when everything is set up, before the guest runs.

include!(concat!(env!("OUT_DIR"), "/filters.rs"));
