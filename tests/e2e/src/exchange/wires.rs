// SPDX-License-Identifier: Apache-2.0
//! What is exchanged with a NIC: bare frames, or datagrams through the host's UDP.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result};
use loadgen::net::host::{Interface, Packets};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Back, Wire};
use crate::network::ip;

/// The NIC, and the tap behind it.
pub const TAP: &str = "card0";
/// The NIC's address.
pub const MAC: &str = "02:00:00:00:00:01";
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// An EtherType for experiments.
const KIND: [u8; 2] = [0x88, 0xb5];
/// The shortest frame.
const FRAME_BYTES: usize = 60;
/// Where the number is in it.
const NUMBER: usize = 14;

/// The host's address on the tap, and the one that its driver speaks for.
pub const HOST_IP: &str = "10.99.0.1";
/// The driver's.
pub const GUEST_IP: &str = "10.99.0.2";
const PORT: u16 = 4000;
/// A datagram that is segmented has so many parts of this length.
const PARTS: u8 = 8;
const PART_BYTES: usize = 1000;
const BUFFER_BYTES: usize = 8 << 20;

/// Bare frames, which the host's network looks at no further.
#[derive(Debug)]
pub struct Frames(Packets);

impl Frames {
    /// On the NIC's tap.
    ///
    /// # Errors
    /// When there is none.
    pub fn new() -> Result<Self> {
        let tap = Interface::of(TAP)?;
        Ok(Self(tap.packets(false).context("a socket on the tap")?))
    }
}

impl Wire for Frames {
    fn send(&mut self, number: u64) -> io::Result<()> {
        let mut frame = [&GUEST[..], &HOST, &KIND, &number.to_le_bytes()].concat();
        frame.resize(FRAME_BYTES, 0);
        self.0.send(&frame)
    }

    fn receive(&mut self) -> io::Result<Option<Back>> {
        while let Some(frame) = self.0.receive(Duration::ZERO)? {
            // There are the host's own, too.
            if !frame.starts_with(&[&HOST[..], &GUEST, &KIND].concat()) {
                continue;
            }
            let number = frame.get(NUMBER..).and_then(<[u8]>::first_chunk::<8>);
            let number = number.map(|bytes| u64::from_le_bytes(*bytes));
            let part = |number| Back::Part { number, part: 0 };
            return Ok(Some(number.map_or(Back::Wrong, part)));
        }
        Ok(None)
    }
}

/// Makes the driver's address known, so that the host's IP can talk to it.
///
/// # Errors
/// When it cannot.
pub fn address_tap() -> Result<()> {
    ip(&format!("address add {HOST_IP}/24 dev {TAP}"))?;
    ip(&format!(
        "neighbour add {GUEST_IP} lladdr {MAC} nud permanent dev {TAP}"
    ))
}

/// Datagrams that are segmented behind the NIC, if the tap has UDP segmentation, and before it, if
/// not.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// From the tap's address to the driver's.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn new() -> Result<Self> {
        let socket = UdpSocket::bind((HOST_IP, PORT))?;
        socket.connect((GUEST_IP, PORT))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(PART_BYTES)?)
            .context("UDP_SEGMENT")?;
        // All that is under way fits.
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER_BYTES).context("SO_SNDBUFFORCE")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("SO_RCVBUFFORCE")?;
        Ok(Self(socket))
    }
}

/// A part: the number, which part, and what follows from both.
fn part(number: u64, part: u8) -> Vec<u8> {
    let filler = (0_u8..=255)
        .cycle()
        .map(|n| n ^ part ^ number.to_le_bytes()[0]);
    let head = number.to_le_bytes().into_iter().chain([part]);
    head.chain(filler).take(PART_BYTES).collect()
}

impl Wire for Datagrams {
    fn send(&mut self, number: u64) -> io::Result<()> {
        let parts: Vec<u8> = (0..PARTS).flat_map(|n| part(number, n)).collect();
        self.0.send(&parts).map(drop)
    }

    fn receive(&mut self) -> io::Result<Option<Back>> {
        let mut bytes = [0; 2 * PART_BYTES];
        let len = match self.0.recv(&mut bytes) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let back = bytes[..len]
            .split_first_chunk::<8>()
            .and_then(|(number, rest)| {
                let (number, which) = (u64::from_le_bytes(*number), *rest.first()?);
                let right = which < PARTS && bytes[..len] == part(number, which);
                right.then_some(Back::Part {
                    number,
                    part: which,
                })
            });
        Ok(Some(back.unwrap_or(Back::Wrong)))
    }

    fn parts(&self) -> u8 {
        PARTS
    }
}
