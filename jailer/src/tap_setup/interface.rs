// SPDX-License-Identifier: Apache-2.0
//! Queries and changes of network interfaces: a handful of ioctls (netdevice(7)). They apply to the
//! network namespace of this process; sysfs may show another one.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The most ports of a bridge. (BR_MAX_PORTS of Linux)
const PORTS_MAX: usize = 1024;
/// The command of SIOCDEVPRIVATE that lists a bridge's ports. (linux/if_bridge.h)
const BRCTL_GET_PORT_LIST: libc::c_ulong = 7;

mod raw {
    nix::ioctl_read_bad!(get_index, libc::SIOCGIFINDEX, libc::ifreq);
    nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_read_bad!(get_mtu, libc::SIOCGIFMTU, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
    // linux/sockios.h
    nix::ioctl_write_ptr_bad!(add_port, 0x89a2, libc::ifreq);
    nix::ioctl_write_ptr_bad!(remove_port, 0x89a3, libc::ifreq);
    nix::ioctl_read_bad!(device_private, 0x89f0, libc::ifreq);
}

/// An interface whose name spec has checked.
#[derive(Debug)]
pub(crate) struct Interface<'a> {
    name: &'a str,
    socket: OwnedFd,
}

impl<'a> Interface<'a> {
    /// The interface of this name, whether or not it exists.
    pub(crate) fn new(name: &'a str) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        Ok(Self { name, socket })
    }

    fn request(&self) -> libc::ifreq {
        let mut field = [0; libc::IFNAMSIZ];
        // Its last byte stays a NUL.
        for (to, from) in field[..libc::IFNAMSIZ - 1]
            .iter_mut()
            .zip(self.name.bytes())
        {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        libc::ifreq {
            ifr_name: field,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 },
        }
    }

    /// Its number; ENODEV if there is none of that name.
    pub(crate) fn index(&self) -> nix::Result<i32> {
        let mut request = self.request();
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::get_index(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: SIOCGIFINDEX has stored an int, for which every value is valid.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// Its MTU, in bytes.
    pub(crate) fn mtu(&self) -> nix::Result<i32> {
        let mut request = self.request();
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::get_mtu(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: SIOCGIFMTU has stored an int, for which every value is valid.
        Ok(unsafe { request.ifr_ifru.ifru_mtu })
    }

    /// Sets its MTU.
    pub(crate) fn set_mtu(&self, mtu: i32) -> nix::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = mtu;
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::set_mtu(self.socket.as_raw_fd(), &raw const request) }.map(drop)
    }

    fn flags(&self) -> nix::Result<libc::c_short> {
        let mut request = self.request();
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::get_flags(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: SIOCGIFFLAGS has stored a short, for which every value is valid.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> nix::Result<bool> {
        Ok(libc::c_int::from(self.flags()?) & libc::IFF_UP != 0)
    }

    /// Brings it up, or down.
    pub(crate) fn set_up(&self, up: bool) -> nix::Result<()> {
        let bit = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
        let flags = self.flags()?;
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::set_flags(self.socket.as_raw_fd(), &raw const request) }.map(drop)
    }

    /// The numbers of its ports, if it is a bridge; EOPNOTSUPP if it is not.
    pub(crate) fn ports(&self) -> nix::Result<Vec<i32>> {
        let mut indices = [0_i32; PORTS_MAX];
        let list = (&raw mut indices).expose_provenance();
        let mut arguments: [libc::c_ulong; 4] = [
            BRCTL_GET_PORT_LIST,
            list as libc::c_ulong,
            PORTS_MAX as libc::c_ulong,
            0,
        ];
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut arguments).cast();
        // SAFETY: the ifreq leads to four numbers, as the call expects of a bridge; they and the
        // buffer that they lead to, of the length they say, outlive it. Drivers of other interfaces
        // know no private command that reads as this one: those that have any check its number, and
        // the jailer asks only of interfaces the user calls bridges.
        unsafe { raw::device_private(self.socket.as_raw_fd(), &raw mut request) }?;
        // The kernel fills one slot for each port; empty slots are 0.
        Ok(indices.into_iter().filter(|index| *index != 0).collect())
    }

    /// Makes an interface a port of this bridge.
    pub(crate) fn add_port(&self, index: i32) -> nix::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_ifindex = index;
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::add_port(self.socket.as_raw_fd(), &raw const request) }.map(drop)
    }

    /// Removes an interface from the ports of this bridge.
    pub(crate) fn remove_port(&self, index: i32) -> nix::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_ifindex = index;
        // SAFETY: `request` is an initialised ifreq that outlives the call.
        unsafe { raw::remove_port(self.socket.as_raw_fd(), &raw const request) }.map(drop)
    }
}
