// SPDX-License-Identifier: Apache-2.0
//! A backend that has been taken over: it serves as ever, behind its own filter, and a thread of
//! it does what its device is called to whatever it shares with the supervisor.

#![allow(unsafe_code)]

use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blk_backend::program::BlkBackend;
use host::clock::monotonic_ns;
use ipc::control::{Channel, FromBackend, ToBackend};
use ipc::fd;
use ipc::health::{self, BACKPRESSURED, HealthPage};
use ipc::record::{BackendRecord, BlkRecord, NetRecord, Record as _};
use loadgen::random::Random;
use net_backend::program::NetBackend;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use nix::sys::stat::fstat;

/// Pings that are answered before it begins: the VM runs by then.
const PINGS: u32 = 4;
/// The most descriptors that one message can bring.
const RIGHTS: usize = 253;
/// Longer than any message may be.
const RUBBISH_MAX: u64 = 5000;
const PAUSE: Duration = Duration::from_millis(1);

/// What it does, and by which name its device asks for it.
type Malice = fn(&Inherited) -> !;
const MALICES: [(&str, Option<Malice>); 10] = [
    // So that one among them does what it should.
    ("honest", None),
    ("talks", Some(talk)),
    ("babbles", Some(babble)),
    ("leaves", Some(leave)),
    ("hangs-up", Some(hang_up)),
    ("turns-away", Some(turn_away)),
    ("lies", Some(lie)),
    ("makes-excuses", Some(make_excuses)),
    ("shouts", Some(shout)),
    ("clings", Some(cling)),
];

/// A NIC's name begins so, and ends in that of the malice.
const NIC: &str = "n-";

/// What this process is asked to be, if it is a backend and its device has one of the names.
pub(crate) fn asked(role: &str) -> Option<Option<Malice>> {
    let fd = copy(fd::RECORD)?;
    let id = match role {
        "blk-backend" => BlkRecord::read(fd).ok()?.device_id().to_owned(),
        "net-backend" => NetRecord::read(fd).ok()?.device_id().to_owned(),
        _ => return None,
    };
    let id = id.strip_prefix(NIC).unwrap_or(&id);
    let mut all = MALICES.iter();
    let found = all.find(|(name, _)| *name == id)?;
    Some(found.1)
}

/// Serves the device, and does it.
pub(crate) fn serve(role: &str, malice: Option<Malice>) -> ExitCode {
    if let (Some(malice), Some(inherited)) = (malice, Inherited::grab(role)) {
        let begun = device_backend::spawn_thread::spawn("malice", move || {
            while inherited.page.queues[0].heartbeat.load(Ordering::Relaxed) < PINGS {
                std::thread::park_timeout(PAUSE);
            }
            malice(&inherited)
        });
        if begun.is_err() {
            return ExitCode::FAILURE;
        }
    }
    match role {
        "net-backend" => device_backend::program::main::<NetBackend>(),
        _ => device_backend::program::main::<BlkBackend>(),
    }
}

/// Copies of what the backend shares with the supervisor.
pub(crate) struct Inherited {
    control: Channel,
    page: HealthPage,
    /// The page again, and the in-flight region or a NIC's state: words that mean nothing here.
    words: Vec<&'static [AtomicU32]>,
    /// The counters of a disk's first ring.
    ring: Option<&'static [AtomicU32]>,
}

impl Inherited {
    fn grab(role: &str) -> Option<Self> {
        let (region, ring) = match role {
            "net-backend" => (fd::net::STATE, None),
            _ => (fd::blk::INFLIGHT, Some(fd::blk::RING)),
        };
        let (page, region) = (copy(fd::HEALTH)?, copy(region)?);
        let len = usize::try_from(fstat(&region).ok()?.st_size).ok()?;
        Some(Self {
            control: copy(fd::CONTROL)?.into(),
            words: vec![map(&page, health::LEN_BYTES)?, map(&region, len)?],
            page: HealthPage::map(page).ok()?,
            ring: ring.and_then(|number| map(copy(number)?, health::LEN_BYTES)),
        })
    }
}

/// A descriptor this process was born with; it stays where it is for whoever claims it.
fn copy(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: nothing closes this number while this runs: it is before anybody claims it.
    unsafe { BorrowedFd::borrow_raw(number) }
        .try_clone_to_owned()
        .ok()
}

/// Maps the beginning of a file for good.
fn map(fd: impl AsFd, len_bytes: usize) -> Option<&'static [AtomicU32]> {
    let len = NonZeroUsize::new(len_bytes)?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address the kernel chooses aliases nothing.
    let start: NonNull<AtomicU32> = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, fd, 0) }
        .ok()?
        .cast();
    // SAFETY: the mapping is page-aligned, so long, and never unmapped; every content is valid, and
    // all accesses are atomic. What lies behind the end of the file is never touched: the files are
    // as long as this, or of the kernel.
    Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len_bytes / 4) })
}

/// Says all there is to say but goodbye, as fast as it is heard, with as many descriptors as one
/// message can bring.
fn talk(inherited: &Inherited) -> ! {
    let noise = r"\u001b[2J\n\u202e\u0000".repeat(100);
    let failed = format!(r#"{{"Failed":{{"about":null,"reason":"{noise}"}}}}"#);
    let rights = [inherited.control.as_fd().as_raw_fd(); RIGHTS];
    loop {
        for text in [r#""Serving""#, &failed] {
            if !send(inherited, text.as_bytes(), &rights) {
                // There may be no room, or only none for descriptors.
                send(inherited, text.as_bytes(), &[]);
            }
        }
    }
}

/// Says what is no message.
fn babble(inherited: &Inherited) -> ! {
    let mut random = Random::new(monotonic_ns());
    loop {
        let len = random.below(RUBBISH_MAX);
        let bytes: Vec<u8> = (0..=len)
            .map(|_| random.number().to_le_bytes()[0])
            .collect();
        send(inherited, &bytes, &[]);
        std::thread::park_timeout(PAUSE);
    }
}

/// Says that the vmm hung up, as one that is not to blame would, and ends.
fn leave(inherited: &Inherited) -> ! {
    let _ = inherited.control.send(&FromBackend::Hangup);
    std::process::exit(0)
}

/// A message of no bytes is what the end of a socket looks like.
fn hang_up(inherited: &Inherited) -> ! {
    send(inherited, &[], &[]);
    rest()
}

/// Hears nothing any more, though it could still speak.
fn turn_away(inherited: &Inherited) -> ! {
    let _ = shutdown(inherited.control.as_fd().as_raw_fd(), Shutdown::Read);
    rest()
}

/// Fills everything with rubbish.
fn lie(inherited: &Inherited) -> ! {
    let mut random = Random::new(monotonic_ns());
    loop {
        for word in inherited.words.iter().flat_map(|words| words.iter()) {
            let rubbish = u32::try_from(random.below(1 << 32));
            word.store(rubbish.unwrap_or(0), Ordering::Relaxed);
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Hears the pings before those whom they are for, answers them, and says that it could do nothing
/// about the rest.
fn make_excuses(inherited: &Inherited) -> ! {
    loop {
        let Ok(Some((ToBackend::Ping(ping), _))) = inherited.control.receive_with() else {
            rest();
        };
        for queue in &inherited.page.queues {
            queue.heartbeat.store(ping, Ordering::Relaxed);
            queue.flags.store(BACKPRESSURED, Ordering::Relaxed);
            queue.in_flight.store(u32::MAX, Ordering::Relaxed);
        }
    }
}

/// Writes to the log, as much as fits.
fn shout(_: &Inherited) -> ! {
    // On no stack: a backend's threads have small ones.
    static NOISE: [u8; 1 << 16] = [b'x'; 1 << 16];
    loop {
        if nix::unistd::write(std::io::stderr(), &NOISE).is_err() {
            std::thread::park_timeout(PAUSE);
        }
    }
}

/// Lets its ring look as if the kernel still had something to do for it, and ends.
fn cling(inherited: &Inherited) -> ! {
    // The submission queue's head, which the kernel writes and never reads.
    let head = inherited.ring.and_then(<[_]>::first);
    head.map(|head| head.fetch_add(1, Ordering::Relaxed));
    std::process::exit(0)
}

fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

/// Sends any bytes, with any descriptors; whether there was room.
fn send(inherited: &Inherited, bytes: &[u8], rights: &[RawFd]) -> bool {
    let parts = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(rights)];
    let with = match rights {
        [ControlMessage::ScmRights([])] => &[][..],
        _ => &rights,
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        inherited.control.as_fd().as_raw_fd(),
        &parts,
        with,
        flags,
        None,
    )
    .is_ok()
}
