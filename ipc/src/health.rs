// SPDX-License-Identifier: Apache-2.0
//! The health page: one page that a child writes and the supervisor reads, so that statistics cost
//! neither a system call.
//!
//! A compromised child can write anything into it: the supervisor shows it and bases no decision
//! about other processes on it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::memfd::{self, Backing, MemfdError};

/// The length of the page in bytes.
pub const LEN_BYTES: usize = 4096;
/// The version of the layout of [`Health`].
pub const VERSION: u32 = 6;
/// The first version whose writer understands
/// [`ToBackend::Synced`](crate::control::ToBackend::Synced) and writes [`Health::loss_told`].
pub const KNOWS_SYNCED: u32 = 3;

/// The first version whose writer, if it is a vmm, understands
/// [`ToVmm::Save`](crate::control::ToVmm::Save).
pub const KNOWS_SAVE: u32 = 6;

/// The content of the page. All zeroes until the child has mapped it and set `version`.
#[derive(Debug)]
#[repr(C)]
pub struct Health {
    /// [`VERSION`] of the build that writes the page.
    pub version: AtomicU32,
    /// A [`Crash`] as a number, stored just before the process dies of it.
    pub crash: AtomicU32,
    /// CLOCK_MONOTONIC in ns at which `main` began.
    pub main_ns: AtomicU64,
    /// CLOCK_MONOTONIC in ns at which the first vCPU was about to enter the guest.
    pub first_run_ns: AtomicU64,
    /// vCPU exits for port I/O.
    pub pio_exits: AtomicU64,
    /// vCPU exits for memory-mapped I/O.
    pub mmio_exits: AtomicU64,
    reserved: [AtomicU64; 3],
    /// The queues of a backend.
    pub queues: [QueueHealth; QUEUES],
    /// What a network backend dropped.
    pub drops: Drops,
    /// 1 once a failed flush has told the driver of lost writes of an earlier backend.
    pub loss_told: AtomicU32,
    /// 1 if the writer is a vmm that cannot save its machine. One from before this was written answers
    /// [`ToVmm::Save`](crate::control::ToVmm::Save) with a refusal.
    pub never_saves: AtomicU32,
}

/// Frames dropped and commands refused, by reason.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Drops {
    /// Sent with another MAC address than the device's.
    pub source_mac: AtomicU64,
    /// Sent with an IPv4 or IPv6 address that is not the guest's.
    pub source_ip: AtomicU64,
    /// ARP or neighbour discovery that claims another host's address.
    pub neighbour: AtomicU64,
    /// Sent as a DHCP server would.
    pub dhcp: AtomicU64,
    /// Router advertisements sent.
    pub router: AtomicU64,
    /// Sent in a form that hides the protocol.
    pub evasive: AtomicU64,
    /// Sent with an invalid header.
    pub header: AtomicU64,
    /// Sent too short, too long, or from addresses outside guest memory.
    pub frame: AtomicU64,
    /// Sent while the tap or the link was down.
    pub down: AtomicU64,
    /// Refused by the host for another reason.
    pub host: AtomicU64,
    /// Received but filtered: other addresses, other VLANs.
    pub unwanted: AtomicU64,
    /// Received, but longer than the driver's buffers.
    pub too_long: AtomicU64,
    /// Received with an offload that the driver has switched off.
    pub offload: AtomicU64,
    /// Malformed control commands.
    pub command: AtomicU64,
    /// Control commands that are not permitted.
    pub refused: AtomicU64,
    /// Sent with an offload that would change the checked headers. Since version 2.
    pub checksum: AtomicU64,
    /// Sent to the link-local addresses that only switches use. Since version 2.
    pub link_control: AtomicU64,
}

impl Drops {
    /// The counters with the names of their reasons.
    pub fn by_reason(&self) -> [(&'static str, u64); 17] {
        [
            ("source-mac", &self.source_mac),
            ("source-ip", &self.source_ip),
            ("neighbour", &self.neighbour),
            ("dhcp", &self.dhcp),
            ("router", &self.router),
            ("evasive", &self.evasive),
            ("header", &self.header),
            ("frame", &self.frame),
            ("down", &self.down),
            ("host", &self.host),
            ("unwanted", &self.unwanted),
            ("too-long", &self.too_long),
            ("offload", &self.offload),
            ("command", &self.command),
            ("refused", &self.refused),
            ("checksum", &self.checksum),
            ("link-control", &self.link_control),
        ]
        .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }
}

/// How many queues the page has room for.
pub const QUEUES: usize = 16;

/// One queue of a backend, written by the worker that owns it.
#[derive(Debug)]
#[repr(C)]
pub struct QueueHealth {
    /// The number of the last ping this worker has answered.
    pub heartbeat: AtomicU32,
    /// [`BACKPRESSURED`], [`BROKEN`], [`UNPLUGGED`], [`HAS_DRIVER`].
    pub flags: AtomicU32,
    /// The available index up to which requests were fetched.
    pub last_avail: AtomicU32,
    /// The used index as it was published.
    pub used: AtomicU32,
    /// Requests fetched and not completed.
    pub in_flight: AtomicU32,
    /// The errno of the last request that the storage failed; 0 if there was none, or no errno.
    /// Since version 4.
    pub last_errno: AtomicU32,
    /// CLOCK_MONOTONIC in ns at which the worker fetched the oldest of them, or a moment before; 0
    /// if there is none.
    pub oldest_ns: AtomicU64,
    /// Requests completed.
    pub requests: AtomicU64,
    /// Requests among them that ended in an error.
    pub errors: AtomicU64,
    /// Bytes read from the device.
    pub read_bytes: AtomicU64,
    /// Bytes written to the device.
    pub written_bytes: AtomicU64,
}

/// The tap behind the backend accepts no more frames for now.
pub const BACKPRESSURED: u32 = 2;
/// The guest broke the rules of virtio; the worker leaves the queue stopped until the device is
/// reset.
pub const BROKEN: u32 = 4;

/// The tap behind the backend does not exist any more. Since version 4.
pub const UNPLUGGED: u32 = 8;

/// Of a power button: the driver has started the queue, so it hears of a press. Since version 5.
pub const HAS_DRIVER: u32 = 16;

const _: () = assert!(size_of::<QueueHealth>() == 64);
const _: () = assert!(std::mem::offset_of!(Health, queues) == 64);
const _: () = assert!(size_of::<Health>() <= LEN_BYTES);

/// Why a process died, by its own account. (The signal does not tell: abort() in process 1 of a pid
/// namespace shows as SIGSEGV.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing was recorded.
    None,
    /// A Rust panic; its message is in the log.
    Panic,
    /// A system call outside the filter, under `--seccomp log`: its number.
    Syscall(u32),
    /// A disk's io_uring has failed for good: the errno. No request caused it.
    Engine(u32),
}

/// Added to the errno of [`Crash::Engine`] and to the number of [`Crash::Syscall`].
const ENGINE: u32 = 0x4000_0000;
const SYSCALL: u32 = 0x8000_0000;

impl Crash {
    /// The number for [`Health::crash`].
    pub fn to_u32(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Panic => 1,
            Self::Syscall(number) => SYSCALL | number,
            Self::Engine(errno) => ENGINE | errno & !(ENGINE | SYSCALL),
        }
    }

    /// Decodes a peer's number; an unknown one is `None`.
    pub fn from_u32(stored: u32) -> Self {
        match stored {
            1 => Self::Panic,
            SYSCALL.. => Self::Syscall(stored & !SYSCALL),
            ENGINE.. => Self::Engine(stored & !ENGINE),
            _ => Self::None,
        }
    }
}

/// The health page could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// It could not be made.
    #[error("cannot make a health page")]
    Create(#[source] MemfdError),
    /// The inherited memfd does not have the length of one page.
    #[error("the health page is {0} bytes long, not {LEN_BYTES}")]
    Length(u64),
    /// It could not be mapped.
    #[error("cannot map the health page")]
    Map(#[source] std::io::Error),
}

/// A mapped health page.
#[derive(Debug)]
pub struct HealthPage(NonNull<Health>);

/// Makes the page of a new child.
pub fn create() -> Result<OwnedFd, HealthError> {
    memfd::shared("health", LEN_BYTES as u64, Backing::Shmem).map_err(HealthError::Create)
}

impl HealthPage {
    /// Maps the page; the mapping lives until the process ends.
    #[allow(unsafe_code)]
    pub fn map(fd: impl AsFd) -> Result<Self, HealthError> {
        let len = File::from(fd.as_fd().try_clone_to_owned().map_err(HealthError::Map)?)
            .metadata()
            .map_err(HealthError::Map)?
            .len();
        if len != LEN_BYTES as u64 {
            return Err(HealthError::Length(len));
        }
        let length = std::num::NonZeroUsize::new(LEN_BYTES).ok_or(HealthError::Length(0))?;
        let prot = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
        let flags = nix::sys::mman::MapFlags::MAP_SHARED;
        // SAFETY: a new mapping at an address the kernel chooses aliases nothing; the file is
        // LEN_BYTES long (checked above) and sealed against shrinking by `create`.
        let page = unsafe { nix::sys::mman::mmap(None, length, prot, flags, fd, 0) };
        page.map(|address| Self(address.cast()))
            .map_err(|e| HealthError::Map(e.into()))
    }
}

impl Drop for HealthPage {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: `self.0` is a mapping of LEN_BYTES made by `map`, and nothing borrows it any more.
        let _ = unsafe { nix::sys::mman::munmap(self.0.cast(), LEN_BYTES) };
    }
}

impl std::ops::Deref for HealthPage {
    type Target = Health;

    #[allow(unsafe_code)]
    fn deref(&self) -> &Health {
        // SAFETY: the mapping is page-aligned, LEN_BYTES ≥ size_of::<Health>() (asserted above), all
        // bit patterns are valid, and every field is atomic, so that peers may write it meanwhile.
        unsafe { self.0.as_ref() }
    }
}

#[allow(unsafe_code)]
// SAFETY: the page is only ever used through shared references to atomics.
unsafe impl Send for HealthPage {}
#[allow(unsafe_code)]
// SAFETY: as for Send.
unsafe impl Sync for HealthPage {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn page_written_by_one_mapping_is_read_by_another() {
        let fd = create().unwrap();
        let (child, supervisor) = (HealthPage::map(&fd).unwrap(), HealthPage::map(&fd).unwrap());
        child.first_run_ns.store(42, Ordering::Relaxed);
        assert_eq!(supervisor.first_run_ns.load(Ordering::Relaxed), 42);
    }

    #[test]
    fn drops_have_each_counter_once_under_a_name_of_its_own() {
        let page = HealthPage::map(create().unwrap()).unwrap();
        let counters = size_of::<Drops>() / size_of::<AtomicU64>();
        let names = page.drops.by_reason().map(|(reason, _)| reason);
        assert_eq!(BTreeSet::from(names).len(), counters);
        page.drops.source_mac.store(1, Ordering::Relaxed);
        page.drops.link_control.store(2, Ordering::Relaxed);
        let counted = page.drops.by_reason();
        assert_eq!(counted[0], ("source-mac", 1));
        assert_eq!(counted[counters - 1], ("link-control", 2));
    }

    #[test]
    fn page_of_wrong_length_is_refused() {
        let fd = memfd::shared("test", 16, Backing::Shmem).unwrap();
        assert!(matches!(HealthPage::map(&fd), Err(HealthError::Length(16))));
    }

    #[test]
    fn crash_stored_reads_back_and_rubbish_is_none() {
        for crash in [
            Crash::None,
            Crash::Panic,
            Crash::Syscall(257),
            Crash::Engine(77),
        ] {
            assert_eq!(Crash::from_u32(crash.to_u32()), crash);
        }
        assert_eq!(Crash::from_u32(7), Crash::None);
    }
}
