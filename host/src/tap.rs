// SPDX-License-Identifier: Apache-2.0
//! Taps: opening one and configuring its queues.
//!
//! The jailer opens the tap of a supervised backend; a standalone backend opens its own. A backend
//! in a jail inherits the queues as descriptors and may only set the offloads, the header's length
//! and which queues are in use.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use ipc::fd::net::PAIRS_MAX;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The longest name of an interface.
pub const NAME_MAX_BYTES: usize = 15;
/// The most queues of a tap, each for both directions.
pub const QUEUES_MAX: u16 = PAIRS_MAX;
/// The length of `struct virtio_net_hdr_v1`.
pub const HEADER_BYTES: usize = 12;
/// The length of the header of drivers older than virtio 1.0.
pub const LEGACY_HEADER_BYTES: usize = 10;

/// TUN_F_*: which offloads the reader of a tap accepts.
pub mod offload {
    /// Frames without a checksum.
    pub const CSUM: u32 = 0x01;
    /// TCP over IPv4, unsegmented.
    pub const TSO4: u32 = 0x02;
    /// TCP over IPv6, unsegmented.
    pub const TSO6: u32 = 0x04;
    /// TCP with ECN bits, unsegmented.
    pub const ECN: u32 = 0x08;
    /// UDP, to be fragmented.
    pub const UFO: u32 = 0x10;
    /// UDP over IPv4, unsegmented.
    pub const USO4: u32 = 0x20;
    /// UDP over IPv6, unsegmented.
    pub const USO6: u32 = 0x40;
}

const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No interface can have this name.
    #[error("the name must have 1 to {NAME_MAX_BYTES} bytes and no slash or space")]
    Name,
    /// A tap cannot have so many queues.
    #[error("{0} queues: must be 1 to {QUEUES_MAX}")]
    Queues(u16),
    /// /dev/net/tun cannot be opened.
    #[error("cannot open /dev/net/tun")]
    Device(#[source] std::io::Error),
    /// Another program has attached to it.
    #[error("the tap is in use by another program")]
    Busy,
    /// This process may not open or create it.
    #[error("no permission to open or create the tap")]
    Permission,
    /// It was made without multi_queue.
    #[error("the tap has one queue only: it was not made with multi_queue")]
    SingleQueue,
    /// It was made with multi_queue.
    #[error("the tap was made with multi_queue, and one queue was asked for")]
    MultiQueue,
    /// The interface of that name is not a tap.
    #[error("the interface is not a tap")]
    NotTap,
    /// The inherited tap lacks a flag.
    #[error("the tap has flags {0:#x}: it needs tap, no_pi and vnet_hdr")]
    Flags(i32),
    /// The inherited queues are not all of one tap.
    #[error("is a queue of {0}, and the first one of {1}")]
    Mixed(String, String),
    /// Another call failed.
    #[error("cannot {0} the tap")]
    Other(&'static str, #[source] std::io::Error),
}

/// The ioctls. (linux/if_tun.h)
mod ioctl {
    nix::ioctl_write_ptr_bad!(
        /// Attaches a descriptor to an interface.
        set_iff, libc::TUNSETIFF, libc::ifreq
    );
    nix::ioctl_read_bad!(
        /// The interface that a descriptor is attached to.
        get_iff, libc::TUNGETIFF, libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        /// Which offloads the reader accepts.
        set_offload, libc::TUNSETOFFLOAD
    );
    nix::ioctl_write_ptr_bad!(
        /// The length of the header.
        set_header, libc::TUNSETVNETHDRSZ, libc::c_int
    );
    nix::ioctl_none_bad!(
        /// A descriptor of the network namespace that the interface is in.
        get_namespace, nix::request_code_none!(b'T', 227)
    );
    nix::ioctl_write_ptr_bad!(
        /// Whether a queue is in use.
        set_queue, libc::TUNSETQUEUE, libc::ifreq
    );
}

/// Opens the queues of a tap; makes the tap if there is none of that name. Each read or write is a
/// header of [`HEADER_BYTES`] and a frame, and never blocks.
pub fn open(name: &str, queues: u16) -> Result<Vec<OwnedFd>, TapError> {
    if queues == 0 || queues > QUEUES_MAX {
        return Err(TapError::Queues(queues));
    }
    let multi = queues > 1;
    let fds: Vec<_> = (0..queues)
        .map(|_| open_queue(name, multi))
        .collect::<Result<_, _>>()?;
    for fd in &fds {
        set_header_bytes(fd.as_fd(), HEADER_BYTES)?;
    }
    Ok(fds)
}

fn open_queue(name: &str, multi: bool) -> Result<OwnedFd, TapError> {
    let (device, attached) = attach(name, multi)?;
    match attached {
        Ok(()) => Ok(device),
        Err(Errno::EBUSY) => Err(TapError::Busy),
        Err(Errno::EPERM | Errno::EACCES) => Err(TapError::Permission),
        // The kernel returns EINVAL for a tap with the other kind of queues, and for what is no
        // tap.
        Err(Errno::EINVAL) => match attach(name, !multi)?.1 {
            Ok(()) | Err(Errno::EBUSY) if multi => Err(TapError::SingleQueue),
            Ok(()) | Err(Errno::EBUSY) => Err(TapError::MultiQueue),
            Err(_) => Err(TapError::NotTap),
        },
        Err(e) => Err(TapError::Other("attach to", e.into())),
    }
}

#[allow(unsafe_code)]
fn attach(name: &str, multi: bool) -> Result<(OwnedFd, Result<(), Errno>), TapError> {
    let flags = FLAGS | if multi { libc::IFF_MULTI_QUEUE } else { 0 };
    let request = request(name, flags)?;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(TapError::Device)?;
    // SAFETY: `request` is initialised and outlives the call.
    let set = unsafe { ioctl::set_iff(device.as_raw_fd(), &raw const request) };
    Ok((device.into(), set.map(drop)))
}

/// Checks that inherited descriptors are queues of one tap that can have so many, and makes them what
/// [`open`] returns; the tap's name.
pub fn inherit(queues: &[OwnedFd]) -> Result<String, TapError> {
    let mut first = None;
    for fd in queues {
        let (name, flags) = interface_of(fd.as_fd())?;
        if queues.len() > 1 && flags & libc::IFF_MULTI_QUEUE == 0 {
            return Err(TapError::SingleQueue);
        }
        let first = first.get_or_insert_with(|| name.clone());
        if name != *first {
            return Err(TapError::Mixed(name, first.clone()));
        }
        let failed = |e: Errno| TapError::Other("prepare", e.into());
        let status = fcntl(fd, FcntlArg::F_GETFL).map_err(failed)?;
        let status = OFlag::from_bits_retain(status) | OFlag::O_NONBLOCK;
        fcntl(fd, FcntlArg::F_SETFL(status)).map_err(failed)?;
        set_header_bytes(fd.as_fd(), HEADER_BYTES)?;
    }
    first.ok_or(TapError::Queues(0))
}

/// Checks that an inherited descriptor is a queue of a tap, and returns the tap's name.
pub fn check(fd: BorrowedFd<'_>) -> Result<String, TapError> {
    interface_of(fd).map(|(name, _)| name)
}

/// The name and the flags of the tap that a descriptor is a queue of.
#[allow(unsafe_code)]
fn interface_of(fd: BorrowedFd<'_>) -> Result<(String, i32), TapError> {
    let mut request = request("any", 0)?;
    // SAFETY: `request` is initialised, and large enough for what the kernel writes.
    let got = unsafe { ioctl::get_iff(fd.as_raw_fd(), &raw mut request) };
    got.map_err(|_| TapError::NotTap)?;
    // SAFETY: TUNGETIFF fills in the flags.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & FLAGS != FLAGS {
        return Err(TapError::Flags(flags));
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    let name = name.map(|byte| char::from(byte.to_ne_bytes()[0])).collect();
    Ok((name, flags))
}

/// The network namespace that a tap is in; `None` if the kernel is older than 5.8 or does not tell
/// this process.
#[allow(unsafe_code)]
pub fn namespace(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    // SAFETY: no pointers.
    let namespace = unsafe { ioctl::get_namespace(fd.as_raw_fd()) }.ok()?;
    // SAFETY: the kernel has just made this descriptor for us.
    Some(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// Sets which offloads the reader of the tap accepts, as in [`offload`].
#[allow(unsafe_code)]
pub fn set_offload(fd: BorrowedFd<'_>, offload: u32) -> Result<(), TapError> {
    let offload = i32::try_from(offload).unwrap_or(0);
    // SAFETY: no pointers.
    let set = unsafe { ioctl::set_offload(fd.as_raw_fd(), offload) };
    set.map(drop)
        .map_err(|e| TapError::Other("set the offloads of", e.into()))
}

/// Whether this kernel's taps support UDP segmentation. Leaves the tap without offloads.
pub fn has_uso(fd: BorrowedFd<'_>) -> bool {
    let wanted = offload::CSUM | offload::USO4 | offload::USO6;
    let has = set_offload(fd, wanted).is_ok();
    let _ = set_offload(fd, 0);
    has
}

/// Sets the length of the header in front of each frame.
#[allow(unsafe_code)]
pub fn set_header_bytes(fd: BorrowedFd<'_>, len_bytes: usize) -> Result<(), TapError> {
    let len = libc::c_int::try_from(len_bytes).unwrap_or(0);
    // SAFETY: `len` is an int, as the call expects, and outlives it.
    let set = unsafe { ioctl::set_header(fd.as_raw_fd(), &raw const len) };
    set.map(drop)
        .map_err(|e| TapError::Other("set the header's length of", e.into()))
}

/// Attaches or detaches a queue of a multi-queue tap.
#[allow(unsafe_code)]
pub fn set_queue(fd: BorrowedFd<'_>, used: bool) -> Result<(), TapError> {
    let flag = if used {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    let request = request("any", flag)?;
    // SAFETY: `request` is initialised and outlives the call.
    match unsafe { ioctl::set_queue(fd.as_raw_fd(), &raw const request) } {
        // It is in that state already.
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(e) => Err(TapError::Other("switch a queue of", e.into())),
    }
}

fn request(name: &str, flags: libc::c_int) -> Result<libc::ifreq, TapError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'%';
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(plain) {
        return Err(TapError::Name);
    }
    let mut field = [0; libc::IFNAMSIZ];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(libc::ifreq {
        ifr_name: field,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(flags).map_err(|_| TapError::Flags(flags))?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_no_interface_can_have_is_refused() {
        for name in ["", "a/b", "a b", "sixteen-bytes-xx", "tap%d", "täp"] {
            assert!(matches!(open(name, 1), Err(TapError::Name)), "{name}");
        }
    }

    #[test]
    fn queues_none_or_too_many_are_refused() {
        assert!(matches!(open("tap0", 0), Err(TapError::Queues(0))));
        assert!(matches!(open("tap0", 9), Err(TapError::Queues(9))));
    }

    #[test]
    fn descriptor_of_something_else_is_no_tap() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(check(null.as_fd()), Err(TapError::NotTap)));
    }
}
