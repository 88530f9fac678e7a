// SPDX-License-Identifier: Apache-2.0
//! A disk: [`DiskSpec`] as the user writes it, [`Disk`] validated.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ipc::slot::DeviceSlot;
use serde::{Deserialize, Serialize};

use crate::SpecError;
use crate::device::{
    DeviceId, check_queue_size, check_queues, escaped, number, options, unescaped, unknown,
};

/// The longest serial number a virtio disk can have, in bytes.
pub const SERIAL_MAX_BYTES: usize = 20;
/// The sizes of logical blocks that a disk can have, in bytes.
const BLOCK_SIZES: [u32; 2] = [512, 4096];
/// The longest a worker thread may poll for work before it sleeps, in µs.
const POLL_US_MAX: u32 = 1_000_000;

/// How a disk's backend does its I/O.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DiskEngine {
    /// An io_uring that can do nothing but I/O on the image; the backend does not hold the image.
    #[default]
    Uring,
    /// Threads and plain system calls, where io_uring is not allowed.
    Threads,
}

impl fmt::Display for DiskEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Threads => "threads",
        })
    }
}

/// A disk as it is written: `--disk path=F[,option]...`, or an object in `disks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The image: a raw file or a block device.
    pub path: PathBuf,
    /// Its name; by default `disk` and its number, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether the guest cannot write to it.
    #[serde(default)]
    pub readonly: bool,
    /// The number of queues, 1 to 16.
    #[serde(default = "default_queues")]
    pub queues: u32,
    /// The entries of a queue: a power of two from 16 to 1024.
    #[serde(default = "default_queue_size")]
    pub queue_size: u32,
    /// How its backend does I/O.
    #[serde(default)]
    pub engine: DiskEngine,
    /// Whether the host's page cache is bypassed.
    #[serde(default)]
    pub direct: bool,
    /// The logical block that the guest sees, in bytes: 512 or 4096; by default 512 for a file, for a
    /// block device its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// The serial number that the guest sees, at most 20 bytes; by default its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How long a worker looks for work before it sleeps, in µs; 0 sleeps at once.
    #[serde(default = "default_poll_us")]
    pub poll_us: u32,
    /// Its device number on the guest's PCI bus, 1 to 24; by default the first one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

fn default_queues() -> u32 {
    1
}

fn default_queue_size() -> u32 {
    256
}

fn default_poll_us() -> u32 {
    50
}

impl DiskSpec {
    /// A disk with everything but its image at the default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            id: None,
            readonly: false,
            queues: default_queues(),
            queue_size: default_queue_size(),
            engine: DiskEngine::default(),
            direct: false,
            block_size: None,
            serial: None,
            poll_us: default_poll_us(),
            slot: None,
        }
    }
}

impl FromStr for DiskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut disk = Self::new(PathBuf::new());
        for (key, value) in options(text)? {
            match (key, value) {
                ("path", Some(path)) => disk.path = unescaped(path).into(),
                ("id", Some(id)) => disk.id = Some(id.into()),
                ("readonly", None) => disk.readonly = true,
                ("queues", Some(n)) => disk.queues = number(key, n)?,
                ("queue-size", Some(n)) => disk.queue_size = number(key, n)?,
                ("engine", Some("uring")) => disk.engine = DiskEngine::Uring,
                ("engine", Some("threads")) => disk.engine = DiskEngine::Threads,
                ("engine", Some(other)) => {
                    return Err(format!("engine {other:?}: expected uring or threads"));
                }
                ("direct", None) => disk.direct = true,
                ("block-size", Some(n)) => disk.block_size = Some(number(key, n)?),
                ("serial", Some(serial)) => disk.serial = Some(unescaped(serial)),
                ("poll-us", Some(n)) => disk.poll_us = number(key, n)?,
                ("slot", Some(n)) => disk.slot = Some(number(key, n)?),
                ("readonly" | "direct", Some(_)) => return Err(format!("{key} takes no value")),
                (
                    "path" | "id" | "queues" | "queue-size" | "engine" | "block-size" | "serial"
                    | "poll-us" | "slot",
                    _,
                ) => return Err(format!("{key} needs a value")),
                _ => return Err(unknown(key, "a disk")),
            }
        }
        match disk.path.as_os_str().is_empty() {
            true => Err("path= is missing".into()),
            false => Ok(disk),
        }
    }
}

/// The options as text, without those at their defaults.
impl fmt::Display for DiskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::new("");
        write!(f, "path={}", escaped(self.path.display()))?;
        if let Some(id) = &self.id {
            write!(f, ",id={id}")?;
        }
        if self.readonly {
            f.write_str(",readonly")?;
        }
        if self.queues != default.queues {
            write!(f, ",queues={}", self.queues)?;
        }
        if self.queue_size != default.queue_size {
            write!(f, ",queue-size={}", self.queue_size)?;
        }
        if self.engine != default.engine {
            write!(f, ",engine={}", self.engine)?;
        }
        if self.direct {
            f.write_str(",direct")?;
        }
        if let Some(bytes) = self.block_size {
            write!(f, ",block-size={bytes}")?;
        }
        if let Some(serial) = &self.serial {
            write!(f, ",serial={}", escaped(serial))?;
        }
        if self.poll_us != default.poll_us {
            write!(f, ",poll-us={}", self.poll_us)?;
        }
        if let Some(slot) = self.slot {
            write!(f, ",slot={slot}")?;
        }
        Ok(())
    }
}

/// A disk, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name.
    pub id: DeviceId,
    /// The image.
    pub path: PathBuf,
    /// Whether the guest cannot write to it.
    pub readonly: bool,
    /// The number of queues, 1 to 16.
    pub queues: u16,
    /// The entries of a queue: a power of two from 16 to 1024.
    pub queue_size: u16,
    /// How its backend does I/O.
    pub engine: DiskEngine,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// The logical block that the guest sees, in bytes, if it is not the default.
    pub block_size: Option<u32>,
    /// The serial number, at most [`SERIAL_MAX_BYTES`] of ASCII.
    pub serial: String,
    /// How long a worker thread polls for work before it sleeps, in µs.
    pub poll_us: u32,
    /// Its place on the guest's PCI bus, which no other device has.
    pub slot: DeviceSlot,
}

impl Disk {
    /// Checks the disk with this number, which gets `slot`.
    pub(crate) fn check(
        number: usize,
        spec: DiskSpec,
        slot: DeviceSlot,
    ) -> Result<Self, SpecError> {
        if spec.path.as_os_str().is_empty() {
            return Err(SpecError::new("disk.path", "", "must name an image"));
        }
        let id = DeviceId::given_or("disk.id", spec.id, "disk", number)?;
        let serial = spec.serial.unwrap_or_else(|| id.to_string());
        let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
        if serial.len() > SERIAL_MAX_BYTES || !serial.bytes().all(printable) {
            let reason = format!("must be at most {SERIAL_MAX_BYTES} printable ASCII characters");
            return Err(SpecError::new("disk.serial", serial, reason));
        }
        if let Some(bytes) = spec.block_size.filter(|it| !BLOCK_SIZES.contains(it)) {
            let reason = "must be 512 or 4096";
            return Err(SpecError::new("disk.block-size", bytes, reason));
        }
        if spec.poll_us > POLL_US_MAX {
            let reason = format!("must be at most {POLL_US_MAX}");
            return Err(SpecError::new("disk.poll-us", spec.poll_us, reason));
        }
        Ok(Self {
            id,
            path: spec.path,
            readonly: spec.readonly,
            queues: check_queues("disk.queues", spec.queues)?,
            queue_size: check_queue_size("disk.queue-size", spec.queue_size)?,
            engine: spec.engine,
            direct: spec.direct,
            block_size: spec.block_size,
            serial,
            poll_us: spec.poll_us,
            slot,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_options_are_read_and_printed_back() {
        let minimal: DiskSpec = "path=/a".parse().unwrap();
        assert_eq!(minimal, DiskSpec::new("/a"));
        for text in [
            "path=/a",
            "path=/a,,b,,,direct,serial=1,,2",
            "path=/a,id=root,readonly,queues=4,queue-size=128,engine=threads,direct,block-size=4096,serial=x,poll-us=0,slot=9",
        ] {
            assert_eq!(text.parse::<DiskSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn disk_options_wrong_are_refused_by_name() {
        for (text, named) in [
            ("", "option"),
            ("readonly", "path="),
            ("path=", "path="),
            ("path", "path needs"),
            ("path=a,queue=1", "\"queue\""),
            ("path=a,queues=x", "queues \"x\""),
            ("path=a,engine=aio", "engine \"aio\""),
            ("path=a,readonly=yes", "readonly takes"),
            ("path=a,path=b", "path is given twice"),
        ] {
            let error = text.parse::<DiskSpec>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn disk_out_of_range_names_field_and_value() {
        for (text, field, value) in [
            ("path=a,queues=0", "disk.queues", "0"),
            ("path=a,queues=17", "disk.queues", "17"),
            ("path=a,queue-size=100", "disk.queue-size", "100"),
            ("path=a,queue-size=8", "disk.queue-size", "8"),
            ("path=a,queue-size=65536", "disk.queue-size", "65536"),
            ("path=a,id=a/b", "disk.id", "a/b"),
            (
                "path=a,serial=123456789012345678901",
                "disk.serial",
                "123456789012345678901",
            ),
            ("path=a,block-size=1024", "disk.block-size", "1024"),
            ("path=a,poll-us=4294967295", "disk.poll-us", "4294967295"),
        ] {
            let error = Disk::check(0, text.parse().unwrap(), DeviceSlot::FIRST).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), (field, value));
        }
    }

    #[test]
    fn disk_without_a_name_is_numbered_and_its_serial_is_its_name() {
        let disk = Disk::check(3, DiskSpec::new("/a"), DeviceSlot::FIRST).unwrap();
        assert_eq!((disk.id.as_str(), disk.serial.as_str()), ("disk3", "disk3"));
    }
}
