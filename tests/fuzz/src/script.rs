// SPDX-License-Identifier: Apache-2.0
//! Bytes read as instructions: what a hostile peer does next. Numbers are little-endian and run out
//! quietly, so that every prefix of a script is a script.

/// What is left of a script.
#[derive(Debug)]
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte, if there is one: a loop over instructions ends here.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next `len` bytes, with zeroes for those that are missing.
    fn number(&mut self, len: usize) -> u64 {
        let mut bytes = [0; 8];
        let (now, later) = self.0.split_at(len.min(self.0.len()));
        bytes[..now.len()].copy_from_slice(now);
        self.0 = later;
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        let [a, b, ..] = self.number(2).to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.number(4).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.number(8)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// As many bytes as the next one says, and are left.
    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.u8());
        let (now, later) = self.0.split_at(len.min(self.0.len()));
        self.0 = later;
        now
    }

    /// The data of an access of 1 to 8 bytes: what a processor can do in one.
    pub(crate) fn access(&mut self) -> Access {
        let len = usize::from(self.u8() % 8) + 1;
        Access {
            bytes: self.number(len).to_le_bytes(),
            len,
        }
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// What one register access carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    bytes: [u8; 8],
    len: usize,
}

impl Access {
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Where a read of the same width goes.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}
