// SPDX-License-Identifier: Apache-2.0
//! Locks on images that other programs respect: QEMU's lock bytes (block/file-posix.c).

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};

use super::DiskError;

/// Locks an image against other programs as QEMU does, so that it and we respect each other: open
/// file description locks that readers can share and a writer cannot. They end when the last
/// reference to this opening is gone, in whatever process.
pub fn lock(file: &File, readonly: bool) -> Result<(), DiskError> {
    let (mine, others) = permissions(readonly);
    mark(file, readonly)?;
    // Marks first, then a look at those of others: of two that start at once, at least one sees
    // the other. F_OFD_GETLK answers F_UNLCK if an exclusive lock could be had, that is, if nobody
    // else holds a mark there.
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

/// Puts the marks of [`lock`] on another opening of an image that is locked already: so they last
/// as long as that opening does.
pub fn mark(file: &File, readonly: bool) -> Result<(), DiskError> {
    let (mine, others) = permissions(readonly);
    let marks = mine.iter().map(|n| 100 + n);
    for byte in marks.chain(others.iter().map(|n| 200 + n)) {
        mark_byte(file, byte)?;
    }
    Ok(())
}

/// At 100 + n, a shared lock says "I use permission n"; at
/// 200 + n, "nobody else may use it". 0 is consistent read, 1 write, 3 resize. What we use, and
/// what nobody else may.
fn permissions(readonly: bool) -> (&'static [i64], &'static [i64]) {
    match readonly {
        true => (&[0], &[1, 3]),
        false => (&[0, 1], &[1, 3]),
    }
}

/// Marks one byte of an image, which need not exist, with a lock that can be shared. It ends with
/// this opening.
pub fn mark_byte(file: &File, byte: i64) -> Result<(), DiskError> {
    let lock = lock_byte(libc::F_RDLCK, byte);
    let locked = fcntl(file, FcntlArg::F_OFD_SETLK(&lock));
    locked.map(drop).map_err(|_| DiskError::Locked)
}

/// Whether an opening other than this one has marked a byte.
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
