// SPDX-License-Identifier: Apache-2.0
//! From which node of the host shared memory comes (mbind(2)).

#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// `MPOL_BIND`: from these nodes, or not at all.
const MPOL_BIND: libc::c_int = 2;
/// How many nodes the kernel can be told of.
const NODES_MAX: usize = 1024;
const WORD_BITS: usize = 64;

/// Has all pages of a memfd come from this node, in whatever process they are first touched: the
/// kernel keeps that with the memory, not with a mapping.
///
/// # Errors
/// EINVAL if the host has no such node, or our control group forbids it; EPERM or ENOSYS if a filter
/// or the kernel knows no nodes.
pub fn bind(memory: BorrowedFd<'_>, len_bytes: u64, node: u32) -> Result<(), Errno> {
    let node = usize::try_from(node).map_err(|_| Errno::EINVAL)?;
    let mut nodes = [0_u64; NODES_MAX / WORD_BITS];
    *nodes.get_mut(node / WORD_BITS).ok_or(Errno::EINVAL)? |= 1 << (node % WORD_BITS);
    let len = usize::try_from(len_bytes).map_err(|_| Errno::EFBIG)?;
    let length = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing accesses.
    let mapped = unsafe { mmap(None, length, ProtFlags::PROT_NONE, flags, memory, 0) }?;
    let (nodes, bits) = (nodes.as_ptr(), NODES_MAX + 1);
    // SAFETY: the range is the mapping just made; the mask is as long as the number of bits says,
    // which the kernel takes for one more than there are.
    let bound = unsafe {
        let address = mapped.as_ptr();
        libc::syscall(libc::SYS_mbind, address, len, MPOL_BIND, nodes, bits, 0)
    };
    let bound = Errno::result(bound).map(drop);
    // SAFETY: the mapping just made, to which no reference exists.
    unsafe { munmap(mapped, len) }?;
    bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::memfd::{Backing, shared};
    use std::os::fd::AsFd as _;

    #[test]
    fn memory_comes_from_a_node_that_is_there_alone() {
        let memory = shared("ram", 1 << 20, Backing::Shmem).unwrap();
        // Every kernel with nodes has the first.
        if std::path::Path::new("/sys/devices/system/node/node0").exists() {
            assert_eq!(bind(memory.as_fd(), 1 << 20, 0), Ok(()));
        }
        for node in [63, 1023, 1024, u32::MAX] {
            assert!(bind(memory.as_fd(), 1 << 20, node).is_err(), "{node}");
        }
    }
}
