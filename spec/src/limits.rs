// SPDX-License-Identifier: Apache-2.0
//! The limits that control groups set for a VM or one of its processes: [`LimitsSpec`] as the user
//! writes them, [`Limits`] validated.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::{number, options};
use crate::{ByteSize, Disk, HugePages, Memory, Net, SpecError};

/// The most of one processor's time that can be asked for, in percent: that of 1024 processors.
const CPU_MAX: u32 = 102_400;
/// The highest weight, that of version 2 of control groups.
const CPU_WEIGHT_MAX: u32 = 10_000;

/// Limits as they are written: `--limits of=vm,memory=2G,cpu=150`, or an object in `limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// Whom they hold: `vm` (all processes together), `supervisor`, `vmm`, or the name of a disk or
    /// network card, for its backend.
    pub of: String,
    /// Memory, the guest's included; of the whole `vm` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processor time, in percent of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// The share of processor time where others want it, too, 1 to 10000; every group has 100 unless
    /// it is given another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes a second read from the drive under an image; of a disk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bps: Option<ByteSize>,
    /// Bytes a second written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bps: Option<ByteSize>,
    /// Reads a second from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u32>,
    /// Writes a second to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u32>,
}

impl FromStr for LimitsSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |key: &str, text: &str| {
            let parsed = text.parse::<ByteSize>();
            parsed
                .map(Some)
                .map_err(|reason| format!("{key} {text:?}: {reason}"))
        };
        let mut limits = Self::default();
        for (key, value) in options(text)? {
            let value = value.ok_or_else(|| format!("{key} needs a value"))?;
            match key {
                "of" => limits.of = value.into(),
                "memory" => limits.memory = size(key, value)?,
                "cpu" => limits.cpu = Some(number(key, value)?),
                "cpu-weight" => limits.cpu_weight = Some(number(key, value)?),
                "pids" => limits.pids = Some(number(key, value)?),
                "read-bps" => limits.read_bps = size(key, value)?,
                "write-bps" => limits.write_bps = size(key, value)?,
                "read-iops" => limits.read_iops = Some(number(key, value)?),
                "write-iops" => limits.write_iops = Some(number(key, value)?),
                _ => return Err(format!("{key:?} cannot be limited")),
            }
        }
        match limits.of.is_empty() {
            true => Err("of=vm, or whom else they hold, is missing".into()),
            false => Ok(limits),
        }
    }
}

impl LimitsSpec {
    /// The limits that are set, as text.
    fn given(&self) -> impl Iterator<Item = (&'static str, String)> {
        let size = |size: Option<ByteSize>| size.map(|size| size.to_string());
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let all = [
            ("memory", size(self.memory)),
            ("cpu", number(self.cpu)),
            ("cpu-weight", number(self.cpu_weight)),
            ("pids", number(self.pids)),
            ("read-bps", size(self.read_bps)),
            ("write-bps", size(self.write_bps)),
            ("read-iops", number(self.read_iops)),
            ("write-iops", number(self.write_iops)),
        ];
        all.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
    }
}

/// The options as text.
impl fmt::Display for LimitsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of={}", self.of)?;
        self.given()
            .try_for_each(|(key, value)| write!(f, ",{key}={value}"))
    }
}

/// The processes that limits apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All processes of the VM together.
    Vm,
    /// The supervisor.
    Supervisor,
    /// The vmm.
    Vmm,
    /// The backend of the disk at this place in the spec.
    Disk(usize),
    /// The backend of the NIC at this place in the spec.
    Net(usize),
}

/// Limits, validated: not zero, and for processes that can have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The processes that they apply to.
    pub held: Held,
    /// Memory in bytes.
    pub memory: Option<ByteSize>,
    /// Processor time, in percent of one processor.
    pub cpu: Option<u32>,
    /// The share of processor time beside others', 1 to 10000.
    pub cpu_weight: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Reads and writes of a drive, each in bytes and in requests a second.
    pub io: IoLimits,
}

/// Limits on a drive, each for one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// Bytes read.
    pub read_bps: Option<ByteSize>,
    /// Bytes written.
    pub write_bps: Option<ByteSize>,
    /// Reads.
    pub read_iops: Option<u32>,
    /// Writes.
    pub write_iops: Option<u32>,
}

impl IoLimits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Limits {
    /// Checks all limits of a VM against its memory and devices.
    pub(crate) fn check_all(
        all: &[LimitsSpec],
        memory: Memory,
        disks: &[Disk],
        nets: &[Net],
    ) -> Result<Vec<Self>, SpecError> {
        let mut checked: Vec<Self> = Vec::with_capacity(all.len());
        for limits in all {
            let one = Self::check(limits, memory, disks, nets)?;
            if checked.iter().any(|other| other.held == one.held) {
                return Err(SpecError::new("limits.of", &limits.of, "is given twice"));
            }
            checked.push(one);
        }
        Ok(checked)
    }

    fn check(
        spec: &LimitsSpec,
        memory: Memory,
        disks: &[Disk],
        nets: &[Net],
    ) -> Result<Self, SpecError> {
        let disk = || disks.iter().position(|disk| disk.id.as_str() == spec.of);
        let net = || nets.iter().position(|net| net.id.as_str() == spec.of);
        let held = match spec.of.as_str() {
            "vm" => Some(Held::Vm),
            "supervisor" => Some(Held::Supervisor),
            "vmm" => Some(Held::Vmm),
            _ => disk().map(Held::Disk).or_else(|| net().map(Held::Net)),
        };
        let unknown = "is none of vm, supervisor, vmm and the ids of disks and network cards";
        let held = held.ok_or_else(|| SpecError::new("limits.of", &spec.of, unknown))?;
        let Some((first, value)) = spec.given().next() else {
            let reason =
                "is held to nothing: give memory, cpu, cpu-weight, pids or read-bps and the like";
            return Err(SpecError::new("limits.of", &spec.of, reason));
        };
        if let Some((key, _)) = spec.given().find(|(_, value)| value == "0") {
            return Err(SpecError::new(field(key), 0, "must not be zero"));
        }
        if let Some(cpu) = spec.cpu.filter(|cpu| *cpu > CPU_MAX) {
            let reason = format!("is in percent of one processor, at most {CPU_MAX}");
            return Err(SpecError::new("limits.cpu", cpu, reason));
        }
        if let Some(weight) = spec.cpu_weight.filter(|weight| *weight > CPU_WEIGHT_MAX) {
            let reason = format!("must be 1 to {CPU_WEIGHT_MAX}");
            return Err(SpecError::new("limits.cpu-weight", weight, reason));
        }
        if let Some(most) = spec.memory {
            check_memory(most, held, memory)?;
        }
        let io = IoLimits {
            read_bps: spec.read_bps,
            write_bps: spec.write_bps,
            read_iops: spec.read_iops,
            write_iops: spec.write_iops,
        };
        if !io.is_empty() && !matches!(held, Held::Disk(_)) {
            let is_io = |(key, _): &(&str, String)| key.contains("ps");
            let (key, value) = spec.given().find(is_io).unwrap_or((first, value));
            let reason = format!("{:?} is not a disk: only a disk is on a drive", spec.of);
            return Err(SpecError::new(field(key), value, reason));
        }
        Ok(Self {
            held,
            memory: spec.memory,
            cpu: spec.cpu,
            cpu_weight: spec.cpu_weight,
            pids: spec.pids,
            io,
        })
    }
}

fn check_memory(most: ByteSize, held: Held, memory: Memory) -> Result<(), SpecError> {
    let error = |reason: String| Err(SpecError::new("limits.memory", most, reason));
    if held != Held::Vm {
        return error(
            "can be limited for the whole VM alone (of=vm): a page of guest memory counts for \
             whichever process touches it first"
                .into(),
        );
    }
    let counts = matches!(
        memory.huge_pages(),
        HugePages::None | HugePages::Transparent
    );
    if counts && most.0 <= memory.size_bytes() {
        let size = ByteSize(memory.size_bytes());
        return error(format!(
            "must be more than the guest's memory, {size}, which is part of it"
        ));
    }
    Ok(())
}

/// The field of an option, for errors.
fn field(key: &str) -> &'static str {
    match key {
        "memory" => "limits.memory",
        "cpu" => "limits.cpu",
        "cpu-weight" => "limits.cpu-weight",
        "pids" => "limits.pids",
        "read-bps" => "limits.read-bps",
        "write-bps" => "limits.write-bps",
        "read-iops" => "limits.read-iops",
        "write-iops" => "limits.write-iops",
        _ => "limits",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Vm, VmSpec};

    fn checked(limits: &[&str]) -> Result<Vec<Limits>, SpecError> {
        let mut spec = VmSpec::new("/k");
        spec.disks = vec!["path=/a".parse().unwrap()];
        spec.nets = vec!["user".parse().unwrap()];
        spec.limits = limits.iter().map(|text| text.parse().unwrap()).collect();
        Vm::try_from(spec).map(|vm| vm.limits)
    }

    #[test]
    fn limits_hold_whom_they_name() {
        let all = checked(&[
            "of=net0,pids=70",
            "of=vm,memory=1G,cpu=150",
            "of=disk0,read-bps=1M",
        ]);
        let held: Vec<_> = all.unwrap().iter().map(|limits| limits.held).collect();
        assert_eq!(held, [Held::Net(0), Held::Vm, Held::Disk(0)]);
    }

    #[test]
    fn limits_that_cannot_hold_are_refused_by_field_and_value() {
        for (limits, field, value) in [
            (&["of=disk1,cpu=1"][..], "limits.of", "disk1"),
            (&["of=vmm"], "limits.of", "vmm"),
            (&["of=vmm,cpu=1", "of=vmm,pids=1"], "limits.of", "vmm"),
            (&["of=vmm,cpu=0"], "limits.cpu", "0"),
            (&["of=vmm,cpu=102401"], "limits.cpu", "102401"),
            (&["of=vmm,cpu-weight=0"], "limits.cpu-weight", "0"),
            (&["of=vm,cpu-weight=10001"], "limits.cpu-weight", "10001"),
            (&["of=vmm,memory=1G"], "limits.memory", "1G"),
            (&["of=vm,memory=512M"], "limits.memory", "512M"),
            (&["of=vm,cpu=5,write-iops=9"], "limits.write-iops", "9"),
        ] {
            let error = checked(limits).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), (field, value));
        }
    }

    #[test]
    fn limits_printed_parse_back_and_odd_ones_do_not() {
        let text = "of=disk0,cpu=50,cpu-weight=300,pids=64,read-bps=1M,write-bps=2M,read-iops=3,write-iops=4";
        let limits: LimitsSpec = text.parse().unwrap();
        assert_eq!(limits.to_string(), text);
        for text in ["", "cpu=1", "of=vm,swap=1", "of=vm,cpu=half", "of=vm,cpu"] {
            assert!(text.parse::<LimitsSpec>().is_err(), "{text}");
        }
    }
}
