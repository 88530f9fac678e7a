// SPDX-License-Identifier: Apache-2.0
//! The launch record: a child's configuration, as JSON in a sealed memfd at [`crate::fd::RECORD`].
//!
//! It holds no path: the child inherits a file descriptor for everything it may use.
//!
//! A supervisor and its children may be of different builds. A record carries its version and the
//! oldest version of a build that understands it (`min_version`); a reader refuses a record that it
//! is too old for and ignores fields that it does not know. So a new field has a default that means
//! what its absence meant, and only what an older build would get wrong raises [`READABLE_SINCE`].

mod blk;
mod geometry;
mod input;
mod net;
mod vmm;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::log_format::LogFormat;
use crate::memfd::{self, MemfdError};

pub use blk::{BlkEngine, BlkRecord, RingParams};
pub use geometry::{Geometry, SECTOR_BYTES};
pub use input::InputRecord;
pub use net::{Guard, NetRecord};
pub use vmm::{DeviceKind, DeviceRecord, MACHINE, NicRecord, Pages, VmmRecord};

/// The version of the records this build writes.
pub const VERSION: u32 = 3;
/// The oldest version of a build that understands these records, unless a record says otherwise.
pub const READABLE_SINCE: u32 = 1;
/// The oldest records that this build understands.
const OLDEST: u32 = 1;
/// The longest record a child reads, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A record could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It could not be put into a memfd.
    #[error("cannot write the launch record")]
    Write(#[source] MemfdError),
    /// It could not be made JSON, or is not JSON of the right shape.
    #[error("the launch record is malformed")]
    Malformed(#[source] serde_json::Error),
    /// Reading the memfd failed.
    #[error("cannot read the launch record")]
    Read(#[source] std::io::Error),
    /// It is longer than the limit.
    #[error("the launch record is {0} bytes long, at most {MAX_BYTES} are expected")]
    TooLong(u64),
    /// It is of a version that this build does not read.
    #[error("the launch record is of version {0}, this build reads {VERSION}")]
    Version(u32),
}

/// A launch record.
pub trait Record: Serialize + DeserializeOwned {
    /// The oldest version of a build that does what this record asks for.
    fn readable_since(&self) -> u32 {
        READABLE_SINCE
    }

    /// Writes the record to a sealed memfd.
    fn write(&self) -> Result<OwnedFd, RecordError> {
        write(self)
    }

    /// Reads the record back; refuses versions that this build does not understand.
    fn read(fd: OwnedFd) -> Result<Self, RecordError> {
        read(fd)
    }
}

/// The record of a backend.
pub trait BackendRecord: Record {
    /// The VM's name, for the log.
    fn vm_id(&self) -> &str;
    /// The device's name, for the log.
    fn device_id(&self) -> &str;
    /// How the backend writes to the log.
    fn log_format(&self) -> LogFormat;
}

fn write(record: &impl Record) -> Result<OwnedFd, RecordError> {
    let mut value = serde_json::to_value(record).map_err(RecordError::Malformed)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("min_version".into(), record.readable_since().into());
    }
    let text = serde_json::to_vec(&value).map_err(RecordError::Malformed)?;
    memfd::document("launch-record", &text).map_err(RecordError::Write)
}

fn read<R: DeserializeOwned>(fd: OwnedFd) -> Result<R, RecordError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
        /// Without it, only a build of that version reads the record.
        min_version: Option<u32>,
    }
    let file = File::from(fd);
    let len = file.metadata().map_err(RecordError::Read)?.len();
    if len > MAX_BYTES {
        return Err(RecordError::TooLong(len));
    }
    let mut text = vec![0; usize::try_from(len).map_err(|_| RecordError::TooLong(len))?];
    file.read_exact_at(&mut text, 0)
        .map_err(RecordError::Read)?;
    let found: Versioned = serde_json::from_slice(&text).map_err(RecordError::Malformed)?;
    let needed = found.min_version.unwrap_or(found.version);
    if found.version < OLDEST || needed > VERSION {
        return Err(RecordError::Version(found.version));
    }
    serde_json::from_slice(&text).map_err(RecordError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> VmmRecord {
        VmmRecord {
            version: VERSION,
            machine: MACHINE,
            vm_id: "a".into(),
            cpus: 2,
            mem_bytes: 128 << 20,
            pages: Pages::Base,
            prefault: false,
            cmdline: "quiet".into(),
            initrd: true,
            irqchip: None,
            board_button: false,
            seccomp: crate::seccomp::Mode::Kill,
            vcpu_affinity: vec!["0-3,8".parse().unwrap(), crate::cpu_set::CpuSet::EMPTY],
            cpu: "x86-64-v2,+aes,-popcnt".parse().unwrap(),
            log_format: LogFormat::Json,
            rebooted: true,
            restores: false,
            devices: vec![DeviceRecord {
                slot: crate::slot::DeviceSlot::new(1).unwrap(),
                id: "disk0".into(),
                kind: DeviceKind::Fs("share".into()),
                queues: 4,
                queue_size: 256,
                foreign: false,
                inflight: true,
            }],
        }
    }

    #[test]
    fn record_written_reads_back_equal() {
        assert_eq!(
            VmmRecord::read(record().write().unwrap()).unwrap(),
            record()
        );
    }

    #[test]
    fn record_of_another_version_is_refused_before_its_fields() {
        let fd = memfd::document("test", br#"{"version":99,"what":"ever"}"#).unwrap();
        assert!(matches!(VmmRecord::read(fd), Err(RecordError::Version(99))));
    }

    /// What is written, with some fields changed.
    fn changed(fields: &[(&str, serde_json::Value)]) -> OwnedFd {
        let file = File::from(record().write().unwrap());
        let mut text = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut text, 0).unwrap();
        let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        for (field, content) in fields {
            value[*field] = content.clone();
        }
        memfd::document("test", &serde_json::to_vec(&value).unwrap()).unwrap()
    }

    #[test]
    fn record_of_the_next_version_is_read_if_it_says_so() {
        let next = [
            ("version", (VERSION + 1).into()),
            ("something_new", serde_json::json!({"a": 1})),
        ];
        let read = VmmRecord::read(changed(&next)).unwrap();
        assert_eq!(read.vm_id, record().vm_id);
    }

    #[test]
    fn record_that_this_build_would_misunderstand_is_refused() {
        let too_new = [
            ("version", (VERSION + 1).into()),
            ("min_version", (VERSION + 1).into()),
        ];
        let too_old = [("version", (OLDEST - 1).into())];
        for fields in [&too_new[..], &too_old] {
            let refused = VmmRecord::read(changed(fields));
            assert!(matches!(refused, Err(RecordError::Version(_))));
        }
    }

    #[test]
    fn record_of_a_build_that_did_not_say_what_it_needs_is_read() {
        let fd = changed(&[("min_version", serde_json::Value::Null)]);
        assert_eq!(VmmRecord::read(fd).unwrap(), record());
    }

    #[test]
    fn record_malformed_or_endless_is_refused() {
        let fd = memfd::document("test", b"{").unwrap();
        assert!(matches!(
            VmmRecord::read(fd),
            Err(RecordError::Malformed(_))
        ));
        let endless = vec![b' '; usize::try_from(MAX_BYTES).unwrap() + 1];
        let fd = memfd::document("test", &endless).unwrap();
        assert!(matches!(VmmRecord::read(fd), Err(RecordError::TooLong(_))));
    }
}
