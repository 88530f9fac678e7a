// SPDX-License-Identifier: Apache-2.0
//! The way to a NIC whose link is pulled now and then: what the network does not take is lost.

use std::io;

use crate::exchange::{Back, Wire};

/// A wire that does not mind.
#[derive(Debug)]
pub(super) struct Tolerant<W>(pub(super) W);

impl<W: Wire> Wire for Tolerant<W> {
    fn send(&mut self, number: u64) -> io::Result<()> {
        match self.0.send(number) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENETDOWN)) => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn receive(&mut self) -> io::Result<Option<Back>> {
        match self.0.receive() {
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
            outcome => outcome,
        }
    }

    fn parts(&self) -> u8 {
        self.0.parts()
    }
}
