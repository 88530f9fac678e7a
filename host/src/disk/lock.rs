// SPDX-License-Identifier: Apache-2.0
//! Locks on images that other programs respect: QEMU's lock bytes (block/file-posix.c).

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};

use super::DiskError;

/// Locks an image as QEMU does, so that QEMU and Bulkhead respect each other's locks: open file
/// description locks that readers can share and a writer cannot. They end when the last reference
/// to this open file description is closed, in any process.
pub fn lock(file: &File, readonly: bool) -> Result<(), DiskError> {
    let (mine, others) = permissions(readonly);
    mark(file, readonly)?;
    // Set our marks first, then look for conflicting ones: of two programs that start at once, at
    // least one sees the other. F_OFD_GETLK returns F_UNLCK if no other opening holds a mark there.
    let conflicts = others
        .iter()
        .map(|n| 100 + n)
        .chain(mine.iter().map(|n| 200 + n));
    for byte in conflicts {
        if is_marked(file, byte)? {
            return Err(DiskError::Locked);
        }
    }
    Ok(())
}

/// Sets the marks of [`lock`] on another opening of an image that is already locked, so that they
/// last as long as that opening.
pub fn mark(file: &File, readonly: bool) -> Result<(), DiskError> {
    let (mine, others) = permissions(readonly);
    let marks = mine.iter().map(|n| 100 + n);
    for byte in marks.chain(others.iter().map(|n| 200 + n)) {
        mark_byte(file, byte)?;
    }
    Ok(())
}

/// The permissions we use, and those we deny to others. A shared lock at byte 100 + n means "I use
/// permission n", one at 200 + n "no other program may use it"; 0 is consistent read, 1 write, 3
/// resize.
fn permissions(readonly: bool) -> (&'static [i64], &'static [i64]) {
    match readonly {
        true => (&[0], &[1, 3]),
        false => (&[0, 1], &[1, 3]),
    }
}

/// Sets a shared lock on one byte of an image, which may lie beyond its end. It ends with this
/// opening.
pub fn mark_byte(file: &File, byte: i64) -> Result<(), DiskError> {
    let lock = lock_byte(libc::F_RDLCK, byte);
    let locked = fcntl(file, FcntlArg::F_OFD_SETLK(&lock));
    locked.map(drop).map_err(|_| DiskError::Locked)
}

/// Whether another opening of the image has marked a byte.
pub fn is_marked(file: &File, byte: i64) -> Result<bool, DiskError> {
    let mut lock = lock_byte(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|e| DiskError::Examine(e.into()))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn lock_byte(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: 0,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::image;
    use super::*;

    #[test]
    fn mark_lasts_as_long_as_its_opening() {
        let path = image("marked", 512);
        let (watcher, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        let byte = 1 << 62;
        mark_byte(&other, byte).unwrap();
        let copy = other.try_clone().unwrap();
        drop(other);
        assert!(is_marked(&watcher, byte).unwrap());
        drop(copy);
        assert!(!is_marked(&watcher, byte).unwrap());
        std::fs::remove_file(path).unwrap();
    }
}
