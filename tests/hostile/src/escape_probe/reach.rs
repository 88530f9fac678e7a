// SPDX-License-Identifier: Apache-2.0
//! What a process without a filter would reach for: code of its own, files, mounts, namespaces, other
//! processes, the network, rights it was not given, and the seals and limits of what it was given.

#![allow(unsafe_code)]

use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

use ipc::fd;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Pid, Uid, chroot, pivot_root, setgroups, setresgid, setresuid};

use crate::memory;

type Outcome = Result<(), Errno>;
pub(crate) type Attempt = (&'static str, fn() -> Outcome);

/// Where a host that lets itself be reached listens: an abstract address.
const HOST_SOCKET: &str = "bulkhead-probe";
/// Numbers that other processes may have.
const NEIGHBOURS: std::ops::Range<i32> = 2..65536;

/// Tries all of it.
pub(crate) fn everywhere(role: &str) -> Vec<(&'static str, Outcome)> {
    let of_role = match role {
        "vmm" => OF_VMM,
        "blk-backend" | "net-backend" | "input-backend" => OF_BACKEND,
        _ => &[],
    };
    let all = memory::ALL.iter().chain(ALL).chain(of_role);
    all.map(|(what, attempt)| (*what, attempt())).collect()
}

/// In this order: whoever is let into a user namespace of its own has more rights in what follows.
const ALL: &[Attempt] = &[
    ("read the root", || opened("/", OFlag::O_RDONLY)),
    ("read a file of the host", || {
        opened("/etc/passwd", OFlag::O_RDONLY)
    }),
    ("read above the root", || {
        opened("/../../etc/passwd", OFlag::O_RDONLY)
    }),
    ("read /proc", || opened("/proc/self/mem", OFlag::O_RDWR)),
    ("make a file", || {
        opened("/x", OFlag::O_RDWR | OFlag::O_CREAT)
    }),
    ("make an unnamed file", || {
        opened("/", OFlag::O_RDWR | OFlag::O_TMPFILE)
    }),
    ("make a directory", || {
        mkdirat(nix::fcntl::AT_FDCWD, "/x", Mode::S_IRWXU)
    }),
    ("change the root", || chroot("/")),
    ("mount a tmpfs", || mounted("tmpfs")),
    ("mount a proc", || mounted("proc")),
    ("mount a devtmpfs", || mounted("devtmpfs")),
    ("make the root writable", || {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
    }),
    ("take the root away", || umount2("/", MntFlags::MNT_DETACH)),
    ("go to another root", || pivot_root("/", "/")),
    ("open a file system", || {
        // SAFETY: fsopen reads a C string.
        called(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), 0) })
    }),
    ("clone the mounts", || {
        // SAFETY: open_tree reads a C string.
        called(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), 1) })
    }),
    ("open a file by its handle", open_by_handle),
    ("leave the mount namespace", || {
        unshare(CloneFlags::CLONE_NEWNS)
    }),
    ("leave the pid namespace", || {
        unshare(CloneFlags::CLONE_NEWPID)
    }),
    ("leave the net namespace", || {
        unshare(CloneFlags::CLONE_NEWNET)
    }),
    ("leave the ipc namespace", || {
        unshare(CloneFlags::CLONE_NEWIPC)
    }),
    ("leave the uts namespace", || {
        unshare(CloneFlags::CLONE_NEWUTS)
    }),
    ("leave the cgroup namespace", || {
        unshare(CloneFlags::CLONE_NEWCGROUP)
    }),
    ("signal anybody", || each_neighbour(|pid| kill(pid, None))),
    ("hold anybody", || {
        each_neighbour(|pid| {
            // SAFETY: pidfd_open takes no pointers.
            called(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
        })
    }),
    ("trace anybody", || each_neighbour(ptrace::attach)),
    ("read anybody's memory", || {
        each_neighbour(|pid| {
            let mut byte = 0_u8;
            let here = libc::iovec {
                iov_base: (&raw mut byte).cast(),
                iov_len: 1,
            };
            let there = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 1,
            };
            // SAFETY: the one buffer is as long as it says; the other is not ours.
            let read = unsafe {
                libc::process_vm_readv(pid.as_raw(), &raw const here, 1, &raw const there, 1, 0)
            };
            match Errno::result(read) {
                // There is somebody whose memory could be read.
                Ok(_) | Err(Errno::EFAULT) => Ok(()),
                Err(errno) => Err(errno),
            }
        })
    }),
    ("limit anybody", || {
        each_neighbour(|pid| {
            let (none, core) = (std::ptr::null::<libc::rlimit64>(), libc::RLIMIT_CORE);
            let mut old = libc::rlimit64 {
                rlim_cur: 0,
                rlim_max: 0,
            };
            let old = &raw mut old;
            // SAFETY: the old limit is written to a structure of its size.
            called(unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), core, none, old) })
        })
    }),
    ("reach a socket of the host's", reach_host_socket),
    ("reach the host's loopback", || {
        io(TcpStream::connect("127.0.0.1:22"))
    }),
    ("reach the internet", || {
        io(TcpStream::connect("192.0.2.1:80"))
    }),
    ("see packets", || {
        // SAFETY: socket takes no pointers.
        called(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into())
    }),
    ("rename the host", || {
        nix::unistd::sethostname("escape-probe")
    }),
    ("take every capability", take_capabilities),
    ("have more descriptors", || raised(Resource::RLIMIT_NOFILE)),
    ("dump core", || raised(Resource::RLIMIT_CORE)),
    ("run before others", || {
        // SAFETY: setpriority takes no pointers.
        called(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) }.into())
    }),
    ("load a BPF program", || {
        let attributes = [0_u64; 16];
        let (len, attributes) = (size_of_val(&attributes), attributes.as_ptr());
        // SAFETY: the attributes are read from an array of that length.
        called(unsafe { libc::syscall(libc::SYS_bpf, 5, attributes, len) })
    }),
    ("load a kernel module", || {
        let (image, none) = ([0_u8; 1], c"".as_ptr());
        // SAFETY: the image is one byte long, the parameters are a C string.
        called(unsafe { libc::syscall(libc::SYS_init_module, image.as_ptr(), 1, none) })
    }),
    ("set the clock", set_clock),
    ("execute a program of the host's", || {
        let (path, none) = (c"/bin/sh".as_ptr(), std::ptr::null::<*const libc::c_char>());
        // SAFETY: the path is a C string; no arguments and no environment are given.
        called(unsafe { libc::syscall(libc::SYS_execve, path, none, none) })
    }),
    ("join a group", || setgroups(&[Gid::from_raw(40)])),
    ("become another group", || {
        let other = Gid::from_raw(40);
        setresgid(other, other, other)
    }),
    ("become another user", || {
        let other = Uid::from_raw(40);
        setresuid(other, other, other)
    }),
    ("have a user namespace", || {
        unshare(CloneFlags::CLONE_NEWUSER)
    }),
    ("mount a tmpfs with the rights of that", || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mounted("tmpfs")
    }),
    (
        "reach a socket of the host's with the rights of that",
        reach_host_socket,
    ),
];

const OF_VMM: &[Attempt] = &[
    ("shrink guest memory", || truncated(fd::vmm::GUEST_RAM, 0)),
    ("grow guest memory", || {
        truncated(fd::vmm::GUEST_RAM, 65 << 20)
    }),
    ("seal guest memory", || sealed(fd::vmm::GUEST_RAM)),
    ("write the kernel", || written(fd::vmm::KERNEL)),
    ("write the launch record", || written(fd::RECORD)),
    ("shrink the health page", || truncated(fd::HEALTH, 0)),
];

const OF_BACKEND: &[Attempt] = &[
    ("write the launch record", || written(fd::RECORD)),
    ("shrink the health page", || truncated(fd::HEALTH, 0)),
];

fn opened(path: &str, flags: OFlag) -> Outcome {
    open(path, flags, Mode::S_IRWXU).map(drop)
}

fn mounted(kind: &str) -> Outcome {
    mount(Some("x"), "/", Some(kind), MsFlags::empty(), None::<&str>)
}

fn reach_host_socket() -> Outcome {
    let address = SocketAddr::from_abstract_name(HOST_SOCKET);
    let stream = address.and_then(|address| UnixStream::connect_addr(&address));
    io(stream)
}

/// To what it is.
fn set_clock() -> Outcome {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is written to a timespec.
    called(unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) }.into())?;
    // SAFETY: the time is read from a timespec.
    called(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const now) }.into())
}

fn open_by_handle() -> Outcome {
    // A struct file_handle: eight bytes of a handle of type 1, inode and generation.
    let handle: [u32; 4] = [8, 1, 2, 0];
    let (here, handle, flags) = (libc::AT_FDCWD, handle.as_ptr(), libc::O_RDONLY);
    // SAFETY: the handle is as long as it says.
    called(unsafe { libc::syscall(libc::SYS_open_by_handle_at, here, handle, flags) })
}

pub(crate) fn called(returned: libc::c_long) -> Outcome {
    Errno::result(returned).map(drop)
}

fn io<T>(outcome: std::io::Result<T>) -> Outcome {
    let errno = |e: std::io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    outcome.map(drop).map_err(errno)
}

/// Whether it works with any process; if not, whether any of them is there to refuse it.
fn each_neighbour(act: impl Fn(Pid) -> Outcome) -> Outcome {
    let mut seen = Err(Errno::ESRCH);
    for pid in NEIGHBOURS {
        match act(Pid::from_raw(pid)) {
            Ok(()) => return Ok(()),
            Err(Errno::ESRCH) => {}
            refused => seen = refused,
        }
    }
    seen
}

fn raised(resource: Resource) -> Outcome {
    let (_, hard) = getrlimit(resource)?;
    setrlimit(resource, hard + 1, hard + 1)
}

fn take_capabilities() -> Outcome {
    const VERSION_3: u32 = 0x2008_0522;
    let (header, sets) = ([VERSION_3, 0], [u32::MAX, u32::MAX, 0, 0x1ff, 0x1ff, 0]);
    // SAFETY: both are laid out as capset(2) says for version 3.
    called(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// A descriptor that the process was born with.
fn born_with(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: whoever would own the number does not run in this program; nobody closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn truncated(number: RawFd, len: i64) -> Outcome {
    nix::unistd::ftruncate(born_with(number), len)
}

fn written(number: RawFd) -> Outcome {
    nix::unistd::write(born_with(number), b"escape-probe").map(drop)
}

fn sealed(number: RawFd) -> Outcome {
    // SAFETY: F_ADD_SEALS takes an integer.
    let added = unsafe {
        libc::fcntl(
            born_with(number).as_raw_fd(),
            libc::F_ADD_SEALS,
            libc::F_SEAL_WRITE,
        )
    };
    called(added.into())
}
