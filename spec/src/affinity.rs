// SPDX-License-Identifier: Apache-2.0
//! On which of the host's processors the VM's processes and vCPUs run: [`AffinitySpec`] as the user
//! writes it, [`Affinity`] validated. The jailer finds out whether the host has these processors.

use std::fmt;
use std::str::FromStr;

use ipc::cpu_set::CpuSet;
use serde::{Deserialize, Serialize};

use crate::device::{options, unescaped};
use crate::{Disk, Net, NetKind, SpecError};

/// The processors of one process or vCPU: `--affinity of=vcpu0,cpus=2`, or an object in `affinity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AffinitySpec {
    /// Whom they are for: `vm` (every process that has no others), `supervisor`, `vmm`, `vcpus` (every
    /// vCPU that has no others), `vcpuN`, or the name of a disk or a network card with a tap, for its
    /// backend.
    pub of: String,
    /// The processors by number, such as `2` or `0-3,8`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub cpus: CpuSet,
}

impl FromStr for AffinitySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut of, mut cpus) = (None, None);
        for (key, value) in options(text)? {
            let value = value.ok_or_else(|| format!("{key} needs a value"))?;
            match key {
                "of" => of = Some(value.to_owned()),
                "cpus" => {
                    let parsed = unescaped(value).parse::<CpuSet>();
                    cpus = Some(parsed.map_err(|reason| format!("cpus {value:?}: {reason}"))?);
                }
                _ => return Err(format!("{key:?} is neither of nor cpus")),
            }
        }
        let of = of.ok_or("of=vm, or whom else they are for, is missing")?;
        let cpus = cpus.ok_or("cpus=, the numbers of processors, is missing")?;
        Ok(Self { of, cpus })
    }
}

/// The options as text: a comma in a value is written twice.
impl fmt::Display for AffinitySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = self.cpus.to_string().replace(',', ",,");
        write!(f, "of={},cpus={cpus}", self.of)
    }
}

/// The processors of all processes and vCPUs of a VM, validated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    vm: Option<CpuSet>,
    supervisor: Option<CpuSet>,
    vmm: Option<CpuSet>,
    all_vcpus: Option<CpuSet>,
    vcpus: Vec<(u8, CpuSet)>,
    disks: Vec<(usize, CpuSet)>,
    nets: Vec<(usize, CpuSet)>,
}

impl Affinity {
    pub(crate) fn check_all(
        all: &[AffinitySpec],
        cpus: u8,
        disks: &[Disk],
        nets: &[Net],
    ) -> Result<Self, SpecError> {
        let mut checked = Self::default();
        for (number, one) in all.iter().enumerate() {
            if all.iter().take(number).any(|other| other.of == one.of) {
                return Err(SpecError::new("affinity.of", &one.of, "is given twice"));
            }
            checked.add(one, cpus, disks, nets)?;
        }
        Ok(checked)
    }

    fn add(
        &mut self,
        one: &AffinitySpec,
        cpus: u8,
        disks: &[Disk],
        nets: &[Net],
    ) -> Result<(), SpecError> {
        let refused = |reason: String| Err(SpecError::new("affinity.of", &one.of, reason));
        let set = one.cpus;
        if set.is_empty() {
            let reason = "names no processor: leave it out, or give numbers such as 0-3,8";
            return Err(SpecError::new("affinity.cpus", set, reason));
        }
        let disk = disks.iter().position(|disk| disk.id.as_str() == one.of);
        let net = nets.iter().position(|net| net.id.as_str() == one.of);
        match (one.of.as_str(), disk, net) {
            ("vm", ..) => self.vm = Some(set),
            ("supervisor", ..) => self.supervisor = Some(set),
            ("vmm", ..) => self.vmm = Some(set),
            ("vcpus", ..) => self.all_vcpus = Some(set),
            (_, Some(index), _) => self.disks.push((index, set)),
            (_, _, Some(index)) => match &nets[index].kind {
                NetKind::Tap(_) => self.nets.push((index, set)),
                NetKind::User(_) => {
                    let reason = "is served by passt, which runs where bulkhead was started: start \
                                  bulkhead with taskset";
                    return refused(reason.into());
                }
            },
            (name, ..) => match name.strip_prefix("vcpu").map(str::parse::<u8>) {
                Some(Ok(id)) if id < cpus && name == format!("vcpu{id}") => {
                    self.vcpus.push((id, set));
                }
                Some(Ok(_)) => return refused(format!("the VM has vcpu0 to vcpu{}", cpus - 1)),
                _ => {
                    let reason = "is none of vm, supervisor, vmm, vcpus, vcpuN and the ids of disks \
                                  and network cards";
                    return refused(reason.into());
                }
            },
        }
        Ok(())
    }

    /// Whether the user has asked for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every set in it.
    pub fn sets(&self) -> impl Iterator<Item = CpuSet> {
        let named = [self.vm, self.supervisor, self.vmm, self.all_vcpus];
        let numbered = self.vcpus.iter().map(|(_, set)| *set);
        let devices = self.disks.iter().chain(&self.nets).map(|(_, set)| *set);
        named.into_iter().flatten().chain(numbered).chain(devices)
    }

    /// Has processes without a set of their own run on these processors, unless the user says where
    /// they run. Children of a supervisor with a set of its own would otherwise get that.
    pub fn fall_back_to(&mut self, set: CpuSet) {
        self.vm = self.vm.or(Some(set));
    }

    /// Those of the supervisor.
    pub fn of_supervisor(&self) -> Option<CpuSet> {
        self.supervisor.or(self.vm)
    }

    /// Those of the vmm, for the threads that are no vCPUs.
    pub fn of_vmm(&self) -> Option<CpuSet> {
        self.vmm.or(self.vm)
    }

    /// Those of a vCPU; `None` if it runs where the vmm does.
    pub fn of_vcpu(&self, id: u8) -> Option<CpuSet> {
        let own = self.vcpus.iter().find(|(number, _)| *number == id);
        own.map(|(_, set)| *set).or(self.all_vcpus)
    }

    /// Those of the backend of the disk at this place in the spec.
    pub fn of_disk(&self, index: usize) -> Option<CpuSet> {
        let own = self.disks.iter().find(|(number, _)| *number == index);
        own.map(|(_, set)| *set).or(self.vm)
    }

    /// Those of the backend of the network card at this place in the spec.
    pub fn of_net(&self, index: usize) -> Option<CpuSet> {
        let own = self.nets.iter().find(|(number, _)| *number == index);
        own.map(|(_, set)| *set).or(self.vm)
    }

    /// Those of every other process.
    pub fn of_others(&self) -> Option<CpuSet> {
        self.vm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Vm, VmSpec};

    fn checked(all: &[&str]) -> Result<Affinity, SpecError> {
        let spec = VmSpec {
            cpus: 2,
            disks: vec!["path=/a".parse().unwrap()],
            nets: ["tap=t", "user"].map(|net| net.parse().unwrap()).into(),
            affinity: all.iter().map(|text| text.parse().unwrap()).collect(),
            ..VmSpec::new("/k")
        };
        Vm::try_from(spec).map(|vm| vm.affinity)
    }

    fn shown(set: Option<CpuSet>) -> String {
        set.map_or("-".into(), |set| set.to_string())
    }

    #[test]
    fn each_runs_on_its_own_processors_or_on_those_of_the_vm() {
        let all = [
            "of=vm,cpus=0",
            "of=vcpus,cpus=1-2",
            "of=vcpu1,cpus=3,,5",
            "of=net0,cpus=4",
        ];
        let affinity = checked(&all).unwrap();
        let sets = [
            affinity.of_supervisor(),
            affinity.of_vmm(),
            affinity.of_vcpu(0),
            affinity.of_vcpu(1),
            affinity.of_disk(0),
            affinity.of_net(0),
        ];
        assert_eq!(sets.map(shown), ["0", "0", "1-2", "3,5", "0", "4"]);
        assert_eq!(affinity.sets().count(), 4);
    }

    #[test]
    fn others_run_where_the_vm_was_started() {
        let mut affinity = checked(&["of=supervisor,cpus=1"]).unwrap();
        affinity.fall_back_to("0-1".parse().unwrap());
        let sets = [
            affinity.of_supervisor(),
            affinity.of_vmm(),
            affinity.of_vcpu(0),
            affinity.of_others(),
        ];
        assert_eq!(sets.map(shown), ["1", "0-1", "-", "0-1"]);
        assert!(checked(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_has_no_processors_is_refused_by_name() {
        for (all, value, told) in [
            (&["of=vcpu2,cpus=0"][..], "vcpu2", "vcpu0 to vcpu1"),
            (&["of=vcpu01,cpus=0"], "vcpu01", "vcpu0 to vcpu1"),
            (&["of=disk1,cpus=0"], "disk1", "is none of vm"),
            (&["of=net1,cpus=0"], "net1", "passt"),
            (&["of=vmm,cpus=0", "of=vmm,cpus=1"], "vmm", "twice"),
        ] {
            let error = checked(all).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), ("affinity.of", value));
            assert!(error.reason.contains(told), "{error}");
        }
    }

    #[test]
    fn text_reads_back_and_half_of_it_does_not() {
        let text = "of=vmm,cpus=0-1,,4";
        assert_eq!(text.parse::<AffinitySpec>().unwrap().to_string(), text);
        for text in [
            "",
            "of=vm",
            "cpus=1",
            "of=vm,cpus=x",
            "of=vm,cpus",
            "of=vm,node=1",
        ] {
            assert!(text.parse::<AffinitySpec>().is_err(), "{text}");
        }
    }
}
