// SPDX-License-Identifier: Apache-2.0
//! Guest memory without a guest: a sealed memfd from guest address 0, and a bump allocator.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use device_backend::GuestMemory;
use device_backend::shared_mem::{SharedMem, SharedMemError};
use ipc::memfd::{Backing, MemfdError, shared};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress};

/// Guest memory cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// There is no memory for it.
    #[error("cannot make guest memory")]
    Make(#[source] MemfdError),
    /// It cannot be mapped.
    #[error("cannot map guest memory: {0}")]
    Map(String),
    /// All of it has been given out.
    #[error("guest memory is used up")]
    Full,
    /// An address is outside it.
    #[error(transparent)]
    Outside(#[from] SharedMemError),
}

/// Guest memory.
#[derive(Debug)]
pub struct Memory {
    file: File,
    memory: Arc<GuestMemory>,
    len_bytes: u64,
    /// Where the first of what is given out begins.
    start: u64,
    given: u64,
}

impl Memory {
    /// Makes memory of a size.
    pub fn new(len_bytes: u64) -> Result<Self, MemoryError> {
        let fd = shared("guest", len_bytes, Backing::Shmem).map_err(MemoryError::Make)?;
        Self::of_file(fd.into(), len_bytes)
    }

    /// Memory that is there already: a memfd of this length.
    pub fn of(fd: OwnedFd, len_bytes: u64) -> Result<Self, MemoryError> {
        Self::of_file(fd.into(), len_bytes)
    }

    /// Makes memory that is not sealed, so that [`Memory::lose_last_page`] can do what a real VM's
    /// memory never lets anyone do.
    pub fn unsealed(len_bytes: u64) -> Result<Self, MemoryError> {
        let make = |e: std::io::Error| MemoryError::Map(e.to_string());
        let fd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).map_err(|e| make(e.into()))?;
        let file = File::from(fd);
        file.set_len(len_bytes).map_err(make)?;
        Self::of_file(file, len_bytes)
    }

    fn of_file(file: File, len_bytes: u64) -> Result<Self, MemoryError> {
        let map = |e: &dyn std::fmt::Display| MemoryError::Map(e.to_string());
        let copy = file.try_clone().map_err(|e| map(&e))?;
        let len = usize::try_from(len_bytes).map_err(|e| map(&e))?;
        let range = (GuestAddress(0), len, Some(FileOffset::new(copy, 0)));
        let memory = GuestMemory::from_ranges_with_files([range]).map_err(|e| map(&e))?;
        Ok(Self {
            file,
            memory: Arc::new(memory),
            len_bytes,
            // Address 0 stays free, so that a forgotten address is an error.
            start: 4096,
            given: 4096,
        })
    }

    /// Cuts off the next bytes as a memory of their own, which gives out only these.
    pub fn part(&mut self, len_bytes: u64) -> Result<Self, MemoryError> {
        let start = self.take(len_bytes)?.0;
        let file = self.file.try_clone();
        Ok(Self {
            file: file.map_err(|e| MemoryError::Map(e.to_string()))?,
            memory: Arc::clone(&self.memory),
            len_bytes: start + len_bytes,
            start,
            given: start,
        })
    }

    /// Takes back all that was given out, and clears it. No device may still know any of it.
    pub fn rewind(&mut self) {
        let zeroes = [0; 4096];
        for address in (self.start..self.given).step_by(zeroes.len()) {
            self.write(&zeroes, GuestAddress(address));
        }
        self.given = self.start;
    }

    /// Gives out the next bytes, on a page boundary.
    pub fn take(&mut self, len_bytes: u64) -> Result<GuestAddress, MemoryError> {
        let address = self.given;
        let end = address.checked_add(len_bytes.next_multiple_of(4096));
        self.given = end
            .filter(|end| *end <= self.len_bytes)
            .ok_or(MemoryError::Full)?;
        Ok(GuestAddress(address))
    }

    /// The last page, which nobody gets from [`Memory::take`] unless it is all that is left.
    pub fn last_page(&self) -> GuestAddress {
        GuestAddress(self.len_bytes - 4096)
    }

    /// Takes the last page away from everybody who has mapped it: touching it is a SIGBUS then.
    /// Or brings it back, with zeroes in it.
    pub fn lose_last_page(&self, lost: bool) -> std::io::Result<()> {
        let missing = if lost { 4096 } else { 0 };
        self.file.set_len(self.len_bytes - missing)
    }

    /// A window into it.
    pub fn window(
        &self,
        address: GuestAddress,
        len_bytes: usize,
    ) -> Result<SharedMem, MemoryError> {
        Ok(SharedMem::of_guest(&self.memory, address, len_bytes)?)
    }

    /// What to write and read it with.
    pub fn bytes(&self) -> Arc<GuestMemory> {
        self.memory.clone()
    }

    /// Its size.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The memfd, for a memory table.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Fills a range; for tests and set-up.
    pub fn write(&self, bytes: &[u8], address: GuestAddress) {
        // Addresses come from `take`.
        let _ = self.memory.write_slice(bytes, address);
    }

    /// Copies a range out.
    pub fn read(&self, bytes: &mut [u8], address: GuestAddress) {
        let _ = self.memory.read_slice(bytes, address);
    }
}
