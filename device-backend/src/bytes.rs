// SPDX-License-Identifier: Apache-2.0
//! Short copies from and to guest memory. vm-memory iterates over regions, which takes longer than
//! copying a small frame; these functions do so only if one region does not hold all bytes.

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryError};

use crate::GuestMemory;

/// Copies out of guest memory.
pub fn read(
    memory: &GuestMemory,
    bytes: &mut [u8],
    address: GuestAddress,
) -> Result<(), GuestMemoryError> {
    match memory.get_slice(address, bytes.len()) {
        Ok(slice) => {
            slice.copy_to(bytes);
            Ok(())
        }
        Err(_) => memory.read_slice(bytes, address),
    }
}

/// Copies into guest memory.
pub fn write(
    memory: &GuestMemory,
    bytes: &[u8],
    address: GuestAddress,
) -> Result<(), GuestMemoryError> {
    match memory.get_slice(address, bytes.len()) {
        Ok(slice) => {
            slice.copy_from(bytes);
            Ok(())
        }
        Err(_) => memory.write_slice(bytes, address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_go_across_regions_and_not_outside() {
        let ranges = [(GuestAddress(0x1000), 0x100), (GuestAddress(0x1100), 0x100)];
        let memory = GuestMemory::from_ranges(&ranges).unwrap();
        let sent: Vec<u8> = (0..32).collect();
        for address in [0x1000, 0x10f0, 0x11e0] {
            let mut got = vec![0; 32];
            write(&memory, &sent, GuestAddress(address)).unwrap();
            read(&memory, &mut got, GuestAddress(address)).unwrap();
            assert_eq!(got, sent, "at {address:#x}");
        }
        for address in [0, 0xff0, 0x11f0, u64::MAX - 8] {
            let mut got = vec![0; 32];
            assert!(write(&memory, &sent, GuestAddress(address)).is_err());
            assert!(read(&memory, &mut got, GuestAddress(address)).is_err());
        }
        read(&memory, &mut [], GuestAddress(0)).unwrap();
    }
}
