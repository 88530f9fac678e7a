// SPDX-License-Identifier: Apache-2.0
//! Turns the limits of a spec into files of control groups, version 1 or 2.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use libc::{dev_t, major, minor};
use spec::{ByteSize, Held, IoLimits, Limits, SpecError};

use super::host::Version;

/// The CFS period, of which a CPU limit is a share, in µs: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// One file to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller, by its name in version 2.
    pub(super) controller: &'static str,
    /// The field of the spec it comes from, and the value there.
    pub(super) field: &'static str,
    pub(super) value: String,
    pub(super) file: &'static str,
    pub(super) content: String,
}

/// The user number of the limited process; `None` for the whole VM.
pub(super) fn user(held: Held, disks: usize) -> Option<usize> {
    match held {
        Held::Vm => None,
        Held::Supervisor => Some(0),
        Held::Vmm => Some(1),
        Held::Disk(index) => Some(2 + index),
        Held::Net(index) => Some(2 + disks + index),
    }
}

/// The files for some limits; `drive` is the drive of the disk they are for.
pub(super) fn settings(limits: &Limits, version: Version, drive: Option<dev_t>) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(memory) = limits.memory {
        let file = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        all.push(Setting {
            controller: "memory",
            field: "limits.memory",
            value: memory.to_string(),
            file,
            content: memory.0.to_string(),
        });
    }
    if let Some(cpu) = limits.cpu {
        let quota_us = u64::from(cpu) * PERIOD_US / 100;
        let (file, content) = match version {
            Version::One => ("cpu.cfs_quota_us", quota_us.to_string()),
            Version::Two => ("cpu.max", format!("{quota_us} {PERIOD_US}")),
        };
        all.push(Setting {
            controller: "cpu",
            field: "limits.cpu",
            value: cpu.to_string(),
            file,
            content,
        });
    }
    if let Some(weight) = limits.cpu_weight {
        let (file, content) = match version {
            Version::One => ("cpu.shares", shares(weight).to_string()),
            Version::Two => ("cpu.weight", weight.to_string()),
        };
        all.push(Setting {
            controller: "cpu",
            field: "limits.cpu-weight",
            value: weight.to_string(),
            file,
            content,
        });
    }
    if let Some(pids) = limits.pids {
        all.push(Setting {
            controller: "pids",
            field: "limits.pids",
            value: pids.to_string(),
            file: "pids.max",
            content: pids.to_string(),
        });
    }
    if let Some(drive) = drive {
        all.extend(of_drive(&limits.io, version, drive));
    }
    all
}

/// A weight as version 1 has it: there every group has 1024, and the least is 2.
fn shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).max(2)
}

/// Checks limits of a VM that has no groups. Where every process has a user of its own, the kernel can
/// count that user's threads (RLIMIT_NPROC); nothing else can be had.
pub(super) fn check_without_groups(all: &[Limits], has_users: bool) -> Result<(), SpecError> {
    for limits in all {
        let has_user = match limits.held {
            Held::Vmm | Held::Disk(_) | Held::Net(_) => has_users,
            // Others inherit the supervisor's.
            Held::Vm | Held::Supervisor => false,
        };
        // The drive is in no message.
        let mut settings = settings(limits, Version::Two, Some(0)).into_iter();
        let refused = settings.find(|setting| !has_user || setting.field != "limits.pids");
        if let Some(Setting { field, value, .. }) = refused {
            let reason = "cannot be had with cgroup inherit, which makes no group: limit the group \
                          that the VM is started in, or name one with cgroup";
            return Err(SpecError::new(field, value, reason));
        }
    }
    Ok(())
}

/// The files for reads and writes of a drive.
fn of_drive(io: &IoLimits, version: Version, drive: dev_t) -> impl Iterator<Item = Setting> {
    let drive = format!("{}:{}", major(drive), minor(drive));
    let bytes = |size: Option<ByteSize>| size.map(|size| (size.to_string(), size.0));
    let count = |number: Option<u32>| number.map(|n| (n.to_string(), u64::from(n)));
    let all = [
        (
            "limits.read-bps",
            bytes(io.read_bps),
            "rbps",
            "blkio.throttle.read_bps_device",
        ),
        (
            "limits.write-bps",
            bytes(io.write_bps),
            "wbps",
            "blkio.throttle.write_bps_device",
        ),
        (
            "limits.read-iops",
            count(io.read_iops),
            "riops",
            "blkio.throttle.read_iops_device",
        ),
        (
            "limits.write-iops",
            count(io.write_iops),
            "wiops",
            "blkio.throttle.write_iops_device",
        ),
    ];
    all.into_iter().filter_map(move |(field, given, key, old)| {
        let (value, number) = given?;
        let (file, content) = match version {
            Version::One => (old, format!("{drive} {number}")),
            Version::Two => ("io.max", format!("{drive} {key}={number}")),
        };
        Some(Setting {
            controller: "io",
            field,
            value,
            file,
            content,
        })
    })
}

/// The drive that an image is on, as the block layer accounts it: the whole disk, not a partition.
pub(crate) fn drive_of(image: &File) -> io::Result<dev_t> {
    let found = image.metadata()?;
    let device = match found.file_type().is_block_device() {
        true => found.rdev(),
        false => found.dev(),
    };
    let (high, low) = (major(device), minor(device));
    if high == 0 {
        let reason = "its file system is on no drive of its own";
        return Err(io::Error::other(reason));
    }
    let own = PathBuf::from(format!("/sys/dev/block/{high}:{low}"));
    if !own.join("partition").exists() {
        return Ok(device);
    }
    // In sysfs the drive is the parent directory of its partition.
    let above = own.join("../dev");
    let text = std::fs::read_to_string(above)?;
    let odd = || io::Error::other(format!("{high}:{low} is a partition of an odd drive"));
    let (high, low) = text.trim().split_once(':').ok_or_else(odd)?;
    let (high, low) = (high.parse(), low.parse());
    match (high, low) {
        (Ok(high), Ok(low)) => Ok(libc::makedev(high, low)),
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            held: Held::Disk(1),
            memory: Some(ByteSize(1 << 20)),
            cpu: Some(150),
            cpu_weight: Some(50),
            pids: Some(7),
            io: IoLimits {
                read_bps: Some(ByteSize(4096)),
                write_iops: Some(9),
                ..IoLimits::default()
            },
        }
    }

    fn written(version: Version) -> Vec<(&'static str, String)> {
        let drive = Some(libc::makedev(8, 16));
        let all = settings(&limits(), version, drive);
        all.into_iter().map(|s| (s.file, s.content)).collect()
    }

    #[test]
    fn limits_are_files_of_either_version() {
        let new = [
            ("memory.max", "1048576"),
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "50"),
            ("pids.max", "7"),
            ("io.max", "8:16 rbps=4096"),
            ("io.max", "8:16 wiops=9"),
        ];
        assert_eq!(written(Version::Two), new.map(|(f, c)| (f, c.to_string())));
        let old = [
            ("memory.limit_in_bytes", "1048576"),
            ("cpu.cfs_quota_us", "150000"),
            ("cpu.shares", "512"),
            ("pids.max", "7"),
            ("blkio.throttle.read_bps_device", "8:16 4096"),
            ("blkio.throttle.write_iops_device", "8:16 9"),
        ];
        assert_eq!(written(Version::One), old.map(|(f, c)| (f, c.to_string())));
    }

    #[test]
    fn without_groups_threads_of_a_user_are_all_that_is_limited() {
        let threads = |held| Limits {
            held,
            memory: None,
            cpu: None,
            cpu_weight: None,
            io: IoLimits::default(),
            ..limits()
        };
        for held in [Held::Vmm, Held::Disk(0), Held::Net(0)] {
            assert_eq!(check_without_groups(&[threads(held)], true), Ok(()));
            let error = check_without_groups(&[threads(held)], false).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), ("limits.pids", "7"));
        }
        for held in [Held::Vm, Held::Supervisor] {
            let error = check_without_groups(&[threads(held)], true).unwrap_err();
            assert_eq!(error.field, "limits.pids");
        }
        let error = check_without_groups(&[limits()], true).unwrap_err();
        assert_eq!((error.field, error.value.as_str()), ("limits.memory", "1M"));
    }

    #[test]
    fn processes_are_held_by_their_place_among_users() {
        let users = [
            Held::Vm,
            Held::Supervisor,
            Held::Vmm,
            Held::Disk(1),
            Held::Net(0),
        ];
        let users = users.map(|held| user(held, 3));
        assert_eq!(users, [None, Some(0), Some(1), Some(3), Some(5)]);
    }

    #[test]
    fn image_in_memory_is_on_no_drive() {
        use ipc::memfd::{Backing, shared};
        let image = shared("image", 4096, Backing::Shmem).unwrap();
        assert!(drive_of(&File::from(image)).is_err());
    }
}
