// SPDX-License-Identifier: Apache-2.0
//! The filters that a process of ours has, by the role it plays.

#![allow(unreachable_pub, reason = "generated for a crate's root")]

use host::seccomp::Filter;

mod vmm {
    include!(concat!(env!("OUT_DIR"), "/vmm.rs"));
}
mod blk {
    include!(concat!(env!("OUT_DIR"), "/blk-backend.rs"));
}
mod net {
    include!(concat!(env!("OUT_DIR"), "/net-backend.rs"));
}
mod input {
    include!(concat!(env!("OUT_DIR"), "/input-backend.rs"));
}

/// The filters it may be behind, by name; the first, of whatever was inherited alone.
pub(crate) fn of(role: &str) -> Vec<(&'static str, Option<Filter>)> {
    let own: &[Filter] = match role {
        "vmm" => &[vmm::VCPU, vmm::DEVICE, vmm::INTX, vmm::STATE, vmm::MAIN],
        "blk-backend" => &[blk::URING, blk::THREADS],
        "net-backend" => &[net::NET],
        "input-backend" => &[input::INPUT],
        _ => &[],
    };
    let own = own.iter().map(|filter| (filter.name, Some(*filter)));
    std::iter::once(("inherited", None)).chain(own).collect()
}
