// SPDX-License-Identifier: Apache-2.0
//! The host's side of a tap: a network namespace of its own, the interface, and a socket that sees
//! every frame on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// What a socket holds until it is read: all that a NIC keeps back while its backend is replaced.
const BUFFER_BYTES: usize = 8 << 20;

/// Gives the calling thread, and what it starts, a network of its own with nothing in it. Takes
/// root.
#[allow(unsafe_code)]
pub fn enter_namespace() -> io::Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Waits until a descriptor is readable.
pub fn wait_readable(fd: &impl AsRawFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let fd = borrow(fd.as_raw_fd());
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

#[allow(unsafe_code)]
fn borrow<'a>(fd: i32) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: of a descriptor that the caller holds for the time of the call.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

nix::ioctl_write_ptr_bad!(
    /// How many bytes a tap has under way to the host at most. (linux/if_tun.h)
    set_send_buffer,
    libc::TUNSETSNDBUF,
    libc::c_int
);

/// Lets a tap have so many bytes under way to the host at most: it is full then, until some have
/// arrived.
#[allow(unsafe_code)]
pub fn limit_tap(tap: impl AsFd, bytes: i32) -> io::Result<()> {
    // SAFETY: the call reads an int, which outlives it.
    unsafe { set_send_buffer(tap.as_fd().as_raw_fd(), &raw const bytes) }?;
    Ok(())
}

/// An interface, by its name.
#[derive(Debug)]
pub struct Interface {
    name: String,
    socket: OwnedFd,
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    #[allow(unsafe_code)]
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    let fd = Errno::result(fd)?;
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Interface {
    /// The interface of this name in the thread's namespace.
    pub fn of(name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.into(),
            socket: socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
        })
    }

    fn call(
        &self,
        request: libc::c_ulong,
        value: libc::__c_anonymous_ifr_ifru,
    ) -> io::Result<libc::ifreq> {
        let mut name = [0; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(self.name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let mut argument = libc::ifreq {
            ifr_name: name,
            ifr_ifru: value,
        };
        let (socket, argument_at) = (self.socket.as_raw_fd(), &raw mut argument);
        #[allow(unsafe_code)]
        // SAFETY: every request that is used here reads and writes one `ifreq`.
        let outcome = unsafe { libc::syscall(libc::SYS_ioctl, socket, request, argument_at) };
        Errno::result(outcome)?;
        Ok(argument)
    }

    /// Brings it up, or down.
    pub fn set_up(&self, up: bool) -> io::Result<()> {
        let flags = if up { libc::IFF_UP } else { 0 };
        let ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
        self.call(
            libc::SIOCSIFFLAGS,
            libc::__c_anonymous_ifr_ifru { ifru_flags },
        )?;
        Ok(())
    }

    /// Whether there is a carrier: somebody has the other side open.
    pub fn has_carrier(&self) -> io::Result<bool> {
        let value = libc::__c_anonymous_ifr_ifru { ifru_flags: 0 };
        let answer = self.call(libc::SIOCGIFFLAGS, value)?;
        #[allow(unsafe_code)]
        // SAFETY: SIOCGIFFLAGS fills it in.
        let flags = unsafe { answer.ifr_ifru.ifru_flags };
        Ok(i32::from(flags) & libc::IFF_RUNNING != 0)
    }

    /// Sets its MTU.
    pub fn set_mtu(&self, mtu: i32) -> io::Result<()> {
        let value = libc::__c_anonymous_ifr_ifru { ifru_mtu: mtu };
        self.call(libc::SIOCSIFMTU, value)?;
        Ok(())
    }

    /// Sets how many frames wait in it for a reader.
    pub fn set_queue_len(&self, frames: i32) -> io::Result<()> {
        // One of the integers of that union.
        let value = libc::__c_anonymous_ifr_ifru { ifru_mtu: frames };
        self.call(libc::SIOCSIFTXQLEN, value)?;
        Ok(())
    }

    /// Gives it an IPv4 address, of a network of 24 bits.
    pub fn set_address(&self, address: [u8; 4]) -> io::Result<()> {
        let mut data = [0; 14];
        for (to, from) in data[2..6].iter_mut().zip(address) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let ifru_addr = libc::sockaddr {
            sa_family: u16::try_from(libc::AF_INET).unwrap_or(2),
            sa_data: data,
        };
        let value = libc::__c_anonymous_ifr_ifru { ifru_addr };
        self.call(libc::SIOCSIFADDR, value)?;
        Ok(())
    }

    fn index(&self) -> io::Result<i32> {
        let value = libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 };
        let answer = self.call(libc::SIOCGIFINDEX, value)?;
        #[allow(unsafe_code)]
        // SAFETY: SIOCGIFINDEX fills it in.
        Ok(unsafe { answer.ifr_ifru.ifru_ifindex })
    }

    /// A socket that sends and sees every frame of the interface, with a header in front of it if
    /// `with_header`.
    pub fn packets(&self, with_header: bool) -> io::Result<Packets> {
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
        let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all))?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES)?;
        if with_header {
            let on: libc::c_int = 1;
            let len = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
            #[allow(unsafe_code)]
            // SAFETY: `on` is an int, as the option expects, and outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_VNET_HDR,
                    (&raw const on).cast(),
                    len,
                )
            };
            Errno::result(set)?;
        }
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(17),
            sll_protocol: all,
            sll_ifindex: self.index()?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(20);
        #[allow(unsafe_code)]
        // SAFETY: a packet socket's address, whose length is said, and which outlives the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        Errno::result(bound)?;
        Ok(Packets(fd))
    }
}

/// `<linux/if_tun.h>`; the C libraries' crate gives it another type on each.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// A queue of a new tap, or tun, with these flags of `TUNSETIFF`.
pub fn tap(name: &str, flags: i32) -> io::Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let tap = Interface {
        name: name.into(),
        socket: device.into(),
    };
    let ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    tap.call(TUNSETIFF, libc::__c_anonymous_ifr_ifru { ifru_flags })?;
    Ok(tap.socket)
}

/// A socket that sees every frame of an interface.
#[derive(Debug)]
pub struct Packets(OwnedFd);

impl Packets {
    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(self.0.as_fd(), frame)?;
        Ok(())
    }

    /// The next frame that somebody else has sent, if one comes in time.
    pub fn receive(&self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        if !wait_readable(&self.0, patience) {
            return Ok(None);
        }
        let mut frame = vec![0; 128 << 10];
        let len = nix::unistd::read(&self.0, &mut frame)?;
        frame.truncate(len);
        Ok(Some(frame))
    }
}
