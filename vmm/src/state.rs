// SPDX-License-Identifier: Apache-2.0
//! The state of a machine, which one vmm leaves and the next one takes up while the guest stands still:
//! parts with names, in a memfd. The main thread of a new vmm reads it, in its jail, before its guest
//! runs; the writer may have been taken over, so nothing in it is trusted.
//!
//! ```text
//! magic 8 | version u32 | oldest reader u32 | machine u32 | architecture 12 | length of all parts u64
//! part: name 20 | index u16 | version u16 | flags u32 | length u32 | content | zeroes up to 8 bytes
//! ```
//!
//! Numbers are little-endian. As with launch records, a reader takes what it is not too old for. It
//! skips parts that it does not know, unless they are critical: those it refuses by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this build writes.
const VERSION: u32 = 1;
/// The oldest version of a build that understands what this one writes.
const READABLE_SINCE: u32 = 1;
/// The longest state, in bytes: that of 254 vCPUs takes about 2 MiB.
pub const MAX_BYTES: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"BULKHEAD";
const HEADER_BYTES: usize = 40;
const PART_BYTES: usize = 32;
const NAME_BYTES: usize = 20;
const ARCH_BYTES: usize = 12;
const ALIGN: usize = 8;
const CRITICAL: u32 = 1;

/// What this build can restore, and the newest version of each part that it understands. It writes
/// these versions.
const KNOWN: &[(&str, u16)] = &[
    ("clock", 1),
    ("cpuid", 1),
    ("mp-state", 1),
    ("regs", 1),
    ("sregs", 1),
    ("xsave", 1),
    ("xcrs", 1),
    ("debug-regs", 1),
    ("lapic", 1),
    ("msrs", 1),
    ("tsc-offset", 1),
    ("events", 1),
    ("board", 1),
    ("function", 1),
    ("device", 1),
];

/// Why a state cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It could not be read or written.
    #[error("cannot reach the state of the machine")]
    Io(#[from] io::Error),
    /// It is longer than the limit, or than its memfd.
    #[error("the state of the machine is {0} bytes long, at most {MAX_BYTES} are expected")]
    TooLong(u64),
    /// It is no such state.
    #[error("this is no state of a machine: {0}")]
    Malformed(&'static str),
    /// It is of a version that this build does not read.
    #[error("the state is of version {0}, this build reads {VERSION}")]
    Version(u32),
    /// It is of another machine.
    #[error("the state is of machine {found}, not of {wanted}")]
    Machine {
        /// Version and architecture of its machine.
        found: String,
        /// Those of this one.
        wanted: String,
    },
    /// It has a part that must not be left out and that this build does not know.
    #[error("the state has a part {0:?} of version {1} that this build cannot take up")]
    Unknown(String, u16),
    /// A part is missing.
    #[error("the state lacks part {0:?} {1}")]
    Missing(&'static str, u16),
    /// A part is not what its name says.
    #[error("part {0:?} {1} of the state is malformed")]
    Part(&'static str, u16),
}

/// Collects the parts of a state.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// The state of a machine of this version.
    pub fn new(machine: u32) -> Self {
        let mut bytes = MAGIC.to_vec();
        for number in [VERSION, READABLE_SINCE, machine] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(padded::<ARCH_BYTES>(std::env::consts::ARCH));
        bytes.extend([0; 8]);
        Self { bytes }
    }

    /// Adds a part, which a reader must know.
    pub fn part(&mut self, name: &'static str, index: u16, content: &[u8]) {
        let version = newest(name).unwrap_or(1);
        self.bytes.extend(padded::<NAME_BYTES>(name));
        self.bytes.extend(index.to_le_bytes());
        self.bytes.extend(version.to_le_bytes());
        self.bytes.extend(CRITICAL.to_le_bytes());
        let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// Adds a part of JSON.
    pub fn json(
        &mut self,
        name: &'static str,
        index: u16,
        content: &impl Serialize,
    ) -> Result<(), StateError> {
        let text = serde_json::to_vec(content).map_err(|_| StateError::Part(name, index))?;
        self.part(name, index, &text);
        Ok(())
    }

    /// The whole state.
    pub fn finish(mut self) -> Vec<u8> {
        let len = (self.bytes.len() - HEADER_BYTES) as u64;
        self.bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
        self.bytes
    }

    /// Writes the state to a memfd of [`MAX_BYTES`].
    pub fn write_to(self, memfd: OwnedFd) -> Result<(), StateError> {
        let bytes = self.finish();
        if bytes.len() as u64 > MAX_BYTES {
            return Err(StateError::TooLong(bytes.len() as u64));
        }
        Ok(File::from(memfd).write_all_at(&bytes, 0)?)
    }
}

/// The parts of a state.
#[derive(Debug, Default)]
pub struct Parts(BTreeMap<(String, u16), Vec<u8>>);

impl Parts {
    /// Reads the state of a machine of this version from a memfd, by read(2): a mapping of it could
    /// be cut off.
    pub fn read_from(memfd: OwnedFd, machine: u32) -> Result<Self, StateError> {
        let file = File::from(memfd);
        let mut bytes = vec![0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        let parts = word64(&bytes, HEADER_BYTES - 8).unwrap_or(u64::MAX);
        let len = parts.saturating_add(HEADER_BYTES as u64);
        if len > MAX_BYTES {
            return Err(StateError::TooLong(len));
        }
        let len = usize::try_from(len).map_err(|_| StateError::TooLong(len))?;
        bytes.resize(len, 0);
        file.read_exact_at(&mut bytes[HEADER_BYTES..], HEADER_BYTES as u64)?;
        Self::parse(&bytes, machine)
    }

    /// The parts of a state of a machine of this version.
    pub fn parse(bytes: &[u8], machine: u32) -> Result<Self, StateError> {
        let short = || StateError::Malformed("it is cut off");
        let header = bytes.get(..HEADER_BYTES).ok_or_else(short)?;
        if header[..8] != MAGIC {
            return Err(StateError::Malformed("its first bytes are others"));
        }
        let number = |at| word(header, at).ok_or_else(short);
        if number(8)? < READABLE_SINCE || number(12)? > VERSION {
            return Err(StateError::Version(number(8)?));
        }
        let arch = name(&header[20..20 + ARCH_BYTES]);
        let found = format!("{} of {arch}", number(16)?);
        let wanted = format!("{machine} of {}", std::env::consts::ARCH);
        if found != wanted {
            return Err(StateError::Machine { found, wanted });
        }
        let mut rest = &bytes[HEADER_BYTES..];
        if word64(header, HEADER_BYTES - 8) != Some(rest.len() as u64) {
            return Err(StateError::Malformed("it has another length than it says"));
        }
        let mut parts = BTreeMap::new();
        while !rest.is_empty() {
            let head = rest.get(..PART_BYTES).ok_or_else(short)?;
            let tag = word(head, NAME_BYTES).ok_or_else(short)?;
            let (index, version) = ((tag & 0xffff) as u16, (tag >> 16) as u16);
            let flags = word(head, NAME_BYTES + 4).ok_or_else(short)?;
            let len = word(head, NAME_BYTES + 8).ok_or_else(short)? as usize;
            let content = rest.get(PART_BYTES..PART_BYTES.saturating_add(len));
            let content = content.ok_or_else(short)?;
            let name = name(&head[..NAME_BYTES]);
            if newest(&name).is_some_and(|newest| version <= newest) {
                let before = parts.insert((name, index), content.to_vec());
                if before.is_some() {
                    return Err(StateError::Malformed("a part is there twice"));
                }
            } else if flags & CRITICAL != 0 {
                return Err(StateError::Unknown(name, version));
            }
            rest = rest
                .get((PART_BYTES + len).next_multiple_of(ALIGN)..)
                .ok_or_else(short)?;
        }
        Ok(Self(parts))
    }

    /// The names of all parts.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = (&'static str, u16)> {
        let known = |name: &str| {
            KNOWN
                .iter()
                .map(|(known, _)| *known)
                .find(|known| *known == name)
        };
        self.0
            .keys()
            .filter_map(move |(name, index)| Some((known(name)?, *index)))
    }

    /// The content of a part.
    pub fn part(&self, name: &'static str, index: u16) -> Result<&[u8], StateError> {
        let part = self.0.get(&(name.to_owned(), index));
        part.map(Vec::as_slice)
            .ok_or(StateError::Missing(name, index))
    }

    /// The content of a part of JSON.
    pub fn json<T: DeserializeOwned>(
        &self,
        name: &'static str,
        index: u16,
    ) -> Result<T, StateError> {
        let part = serde_json::from_slice(self.part(name, index)?);
        part.map_err(|_| StateError::Part(name, index))
    }
}

/// The newest version of a part that this build understands.
fn newest(name: &str) -> Option<u16> {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known.map(|(_, version)| *version)
}

/// A name with zeroes behind it.
fn padded<const LEN: usize>(name: &str) -> [u8; LEN] {
    let mut field = [0; LEN];
    for (byte, value) in field.iter_mut().zip(name.bytes()) {
        *byte = value;
    }
    field
}

/// The name in a field.
fn name(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use ipc::memfd::{Backing, shared};

    use super::*;

    fn state() -> Vec<u8> {
        let mut writer = Writer::new(1);
        writer.part("regs", 0, b"abc");
        writer.part("regs", 253, &[7; 100]);
        writer.json("board", 0, &[1, 2]).unwrap();
        writer.finish()
    }

    /// The state with bytes of its own at `at`.
    fn spoiled(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut state = state();
        state[at..at + bytes.len()].copy_from_slice(bytes);
        state
    }

    #[test]
    fn parts_written_are_read_back() {
        let memfd = shared("state", MAX_BYTES, Backing::Shmem).unwrap();
        let mut writer = Writer::new(1);
        writer.part("regs", 0, b"abc");
        writer.json("board", 3, &[1, 2]).unwrap();
        writer.write_to(memfd.try_clone().unwrap()).unwrap();

        let parts = Parts::read_from(memfd, 1).unwrap();

        assert_eq!(parts.part("regs", 0).unwrap(), b"abc");
        assert_eq!(parts.json::<Vec<u8>>("board", 3).unwrap(), [1, 2]);
        let missing = parts.part("regs", 1).unwrap_err();
        assert_eq!(missing.to_string(), "the state lacks part \"regs\" 1");
        assert!(matches!(
            parts.json::<Vec<u8>>("regs", 0),
            Err(StateError::Part("regs", 0))
        ));
    }

    #[test]
    fn state_cut_off_anywhere_is_refused() {
        let state = state();
        for len in 0..state.len() {
            assert!(Parts::parse(&state[..len], 1).is_err(), "{len}");
        }
        assert!(Parts::parse(&state, 1).is_ok());
    }

    #[test]
    fn state_of_another_machine_or_version_is_refused_and_says_so() {
        let arch = std::env::consts::ARCH;
        for (bytes, machine, why) in [
            (
                state(),
                2,
                format!("the state is of machine 1 of {arch}, not of 2 of {arch}"),
            ),
            (spoiled(20, b"vax\0"), 1, "of vax".into()),
            (spoiled(8, &[0; 4]), 1, "version 0".into()),
            (spoiled(8, &[2, 0, 0, 0, 2, 0, 0, 0]), 1, "version 2".into()),
            (spoiled(0, b"x"), 1, "no state".into()),
            (spoiled(32, &[255]), 1, "another length".into()),
        ] {
            let error = Parts::parse(&bytes, machine).unwrap_err().to_string();
            assert!(error.contains(&why), "{error}");
        }
    }

    #[test]
    fn part_unknown_is_skipped_unless_it_is_critical() {
        let at = HEADER_BYTES;
        let error = Parts::parse(&spoiled(at, b"flux"), 1).unwrap_err();
        assert!(
            error.to_string().contains("\"flux\" of version 1"),
            "{error}"
        );
        let newer = spoiled(at + NAME_BYTES + 2, &[2]);
        assert!(matches!(
            Parts::parse(&newer, 1),
            Err(StateError::Unknown(_, 2))
        ));
        let mut optional = spoiled(at, b"flux");
        optional[at + NAME_BYTES + 4] = 0;
        let parts = Parts::parse(&optional, 1).unwrap();
        assert!(parts.part("regs", 0).is_err() && parts.part("regs", 253).is_ok());
    }

    #[test]
    fn part_that_is_there_twice_is_refused() {
        let mut writer = Writer::new(1);
        writer.part("regs", 0, b"a");
        writer.part("regs", 0, b"b");
        assert!(Parts::parse(&writer.finish(), 1).is_err());
    }

    #[test]
    fn state_longer_than_the_limit_or_its_memfd_is_refused() {
        let memfd = shared("state", 1 << 20, Backing::Shmem).unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        for (len, too_long) in [(MAX_BYTES, true), (2 << 20, false)] {
            let mut header = Writer::new(1).finish();
            header[HEADER_BYTES - 8..].copy_from_slice(&len.to_le_bytes());
            file.write_all_at(&header, 0).unwrap();
            let error = Parts::read_from(memfd.try_clone().unwrap(), 1).unwrap_err();
            assert_eq!(matches!(error, StateError::TooLong(_)), too_long, "{error}");
        }
    }
}
