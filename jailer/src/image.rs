// SPDX-License-Identifier: Apache-2.0
//! Operations on the image of a running VM's disk. Each may block on storage, and runs in a
//! [`super::helper`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use handover::parked::Parked;
use host::disk::{self, Access, DiskError};
use ipc::broker::{Answer, Reopened};
use nix::errno::Errno;
use nix::unistd::Pid;

/// The first byte that can be a mark: each opening for a backend locks a byte of its own from here
/// on. No image is so large.
const MARKS: i64 = 1 << 62;
/// The pause between two looks at a mark: the shortest and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A byte that no other opening of any VM on this host locks while that opening exists.
pub(super) fn fresh_mark() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let generation = NEXT.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff;
    // Process ids have at most 22 bits.
    MARKS + (i64::from(Pid::this().as_raw() & 0x3f_ffff) << 32) + generation
}

/// Whether a byte can be a mark.
pub(super) fn is_mark(byte: i64) -> bool {
    byte >= MARKS
}

/// Opens an image again through its descriptor, whatever has become of its path, and marks the
/// opening.
pub(super) fn reopen(image: &impl AsRawFd, access: Access, mark: i64) -> Result<File, DiskError> {
    let direct = if access.direct { libc::O_DIRECT } else { 0 };
    let opened = OpenOptions::new()
        .read(true)
        .write(!access.readonly)
        .custom_flags(libc::O_NONBLOCK | direct)
        .open(format!("/proc/self/fd/{}", image.as_raw_fd()));
    let opening = opened.map_err(DiskError::Open)?;
    disk::mark(&opening, access.readonly)?;
    disk::mark_byte(&opening, mark)?;
    Ok(opening)
}

/// Answers [`ipc::broker::Question::ReopenDisk`].
pub(super) fn answer_reopen(
    image: &Parked,
    access: Access,
    mark: i64,
) -> Result<(Answer, Option<OwnedFd>), Errno> {
    let opening = reopen(&image.copy()?, access, mark).map_err(|e| errno(&e))?;
    let geometry = disk::look(&opening, access);
    let reopened = Reopened {
        mark,
        geometry: geometry.map_err(|e| host::log::chain(&e)),
    };
    Ok((Answer::Reopened(reopened), Some(opening.into())))
}

/// Waits until no process has the opening with this mark any more, and answers
/// [`ipc::broker::Question::DiskReleased`].
pub(super) fn await_release(image: &Parked, mark: i64) -> Result<(Answer, Option<OwnedFd>), Errno> {
    let image = File::from(image.copy()?);
    let mut pause = PAUSE_MIN;
    while disk::is_marked(&image, mark).map_err(|e| errno(&e))? {
        sleep(pause);
        pause = (pause + pause / 8).min(PAUSE_MAX);
    }
    Ok((Answer::Released, None))
}

/// Answers [`ipc::broker::Question::SyncDisk`]. The kernel reports lost writes once to each
/// opening; only this function asks the image's oldest opening.
pub(super) fn answer_sync(image: &Parked) -> Result<(Answer, Option<OwnedFd>), Errno> {
    let synced = File::from(image.copy()?).sync_data();
    let errno = synced.map_or_else(|e| of(&e) as i32, |()| 0);
    Ok((Answer::Synced(errno), None))
}

fn errno(error: &DiskError) -> Errno {
    match error {
        DiskError::Open(e) | DiskError::Examine(e) => of(e),
        _ => Errno::EAGAIN,
    }
}

/// The errno of an I/O error.
pub(super) fn of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::mpsc;

    /// An image that is parked, and another opening of it.
    fn image() -> (Parked, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let parked = Parked::empty().unwrap();
        parked.park(file.as_file().as_fd()).unwrap();
        (parked, file.reopen().unwrap())
    }

    #[test]
    fn opening_is_released_when_its_last_user_is_gone_and_not_before() {
        let (image, opening) = image();
        let mark = fresh_mark();
        disk::mark_byte(&opening, mark).unwrap();
        let copy = opening.try_clone().unwrap();
        let (tell, told) = mpsc::channel();
        let waits = std::thread::spawn(move || {
            let answer = await_release(&image, mark).unwrap().0;
            tell.send(answer).unwrap();
        });
        drop(opening);
        let early = told.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "the image is still open");
        drop(copy);
        assert_eq!(told.recv().unwrap(), Answer::Released);
        waits.join().unwrap();
    }

    #[test]
    fn image_reopened_is_marked_and_measured_and_can_only_be_read_if_it_is_read_only() {
        let (image, other) = image();
        let access = Access {
            readonly: true,
            direct: false,
            block_bytes: None,
        };
        let mark = fresh_mark();
        let (answer, opening) = answer_reopen(&image, access, mark).unwrap();
        let Answer::Reopened(Reopened {
            mark: marked,
            geometry,
        }) = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(marked, mark);
        assert_eq!(geometry.unwrap().capacity_bytes, 4096);
        assert!(disk::is_marked(&other, mark).unwrap());
        let opening = opening.unwrap();
        assert_eq!(nix::unistd::write(&opening, b"x"), Err(Errno::EBADF));
        other.set_len(0).unwrap();
        let (answer, _) = answer_reopen(&image, access, fresh_mark()).unwrap();
        let Answer::Reopened(Reopened { geometry, .. }) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(geometry.unwrap().capacity_bytes, 0, "not for us to judge");
    }

    #[test]
    fn mark_is_never_the_same_and_never_negative() {
        let (a, b) = (fresh_mark(), fresh_mark());
        assert!(a != b && is_mark(a) && is_mark(b));
    }
}
