// SPDX-License-Identifier: Apache-2.0
//! Asks the kernel about a tap over rtnetlink (rtnetlink(7)): whether its frames carry packet
//! information. TUNGETIFF cannot tell: IFF_NO_PI and IFF_NOFILTER are one bit.

use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// The length of `struct nlmsghdr` and `struct ifinfomsg`, each, in bytes.
const HEADER_BYTES: usize = 16;
/// Room for what the kernel says of one interface.
const ANSWER_BYTES: usize = 32 << 10;
/// Attributes (linux/if_link.h): of an interface, of IFLA_LINKINFO, of IFLA_INFO_DATA of a tap.
const IFNAME: u16 = 3;
const LINKINFO: u16 = 18;
const INFO_DATA: u16 = 2;
const TUN_PI: u16 = 4;
/// Which bits of an attribute's type are its number.
const TYPE_MASK: u16 = 0x3fff;

/// Whether frames of the tap `name` of our network namespace carry packet information; `None` if the
/// kernel does not say.
pub(super) fn has_packet_information(name: &str) -> Option<bool> {
    let kind = (AddressFamily::Netlink, SockType::Raw);
    let asked = socket(
        kind.0,
        kind.1,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    );
    let socket = asked.ok()?;
    send(socket.as_raw_fd(), &question(name)?, MsgFlags::empty()).ok()?;
    let mut answer = vec![0; ANSWER_BYTES];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    said(answer.get(..len)?)
}

/// RTM_GETLINK, by name.
fn question(name: &str) -> Option<Vec<u8>> {
    let padded = (name.len() + 1).next_multiple_of(4);
    let total = u32::try_from(2 * HEADER_BYTES + 4 + padded).ok()?;
    let mut message = total.to_ne_bytes().to_vec();
    message.extend(libc::RTM_GETLINK.to_ne_bytes());
    message.extend(u16::try_from(libc::NLM_F_REQUEST).ok()?.to_ne_bytes());
    // The number of the message and the sender's, and an ifinfomsg without an index.
    message.resize(2 * HEADER_BYTES, 0);
    message.extend(u16::try_from(4 + name.len() + 1).ok()?.to_ne_bytes());
    message.extend(IFNAME.to_ne_bytes());
    message.extend(name.as_bytes());
    message.resize(2 * HEADER_BYTES + 4 + padded, 0);
    Some(message)
}

/// What RTM_NEWLINK says of packet information.
fn said(answer: &[u8]) -> Option<bool> {
    let kind = answer.get(4..6)?;
    if kind != libc::RTM_NEWLINK.to_ne_bytes() {
        return None;
    }
    let link = attribute(answer.get(2 * HEADER_BYTES..)?, LINKINFO)?;
    let value = attribute(attribute(link, INFO_DATA)?, TUN_PI)?;
    Some(*value.first()? != 0)
}

/// The value of an attribute.
fn attribute(mut all: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (len, kind) = (all.get(..2)?, all.get(2..4)?);
        let len = usize::from(u16::from_ne_bytes(len.try_into().ok()?));
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        let value = all.get(4..len)?;
        if kind & TYPE_MASK == wanted {
            return Some(value);
        }
        all = all.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        let mut all = len.to_ne_bytes().to_vec();
        all.extend(kind.to_ne_bytes());
        all.extend(value);
        all.resize(all.len().next_multiple_of(4), 0);
        all
    }

    fn answer(pi: u8) -> Vec<u8> {
        let data = [nested(3, &[2]), nested(TUN_PI, &[pi])].concat();
        let info = [nested(1, b"tun\0"), nested(INFO_DATA, &data)].concat();
        let mut all = vec![0; 2 * HEADER_BYTES];
        all[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        all.extend(nested(IFNAME, b"tap0\0"));
        // NLA_F_NESTED
        all.extend(nested(LINKINFO | 0x8000, &info));
        all
    }

    #[test]
    fn packet_information_is_found_among_nested_attributes() {
        assert_eq!(said(&answer(1)), Some(true));
        assert_eq!(said(&answer(0)), Some(false));
    }

    #[test]
    fn answer_that_is_cut_or_says_something_else_says_nothing() {
        let whole = answer(1);
        for len in 0..whole.len() - 4 {
            assert_eq!(said(&whole[..len]), None, "{len}");
        }
        let mut error = whole;
        error[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(said(&error), None);
        // An attribute of no length would be met again and again.
        assert_eq!(attribute(&[0; 16], 7), None);
    }

    #[test]
    fn kernel_says_nothing_of_what_is_no_tap() {
        assert_eq!(has_packet_information("lo"), None);
        assert_eq!(has_packet_information("no-such-tap"), None);
    }
}
