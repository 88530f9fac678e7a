// SPDX-License-Identifier: Apache-2.0
//! The whole VM: [`VmSpec`] as the user writes it, [`Vm`] validated.

use std::path::PathBuf;
use std::time::Duration;

use ipc::record::MACHINE;
use serde::{Deserialize, Serialize};

use crate::cmdline::{check_cmdline, default_cmdline};
use crate::device::check_unique;
use crate::slots;
use crate::{
    Affinity, AffinitySpec, ByteSize, Cgroup, Console, CpuModel, Disk, DiskSpec, Held, HugePages,
    Irqchip, Limits, LimitsSpec, LogFormat, Memory, Net, NetSpec, OnReboot, PowerButton, Seccomp,
    SpecError, UidRange, VhostUser, VhostUserSpec, VmName,
};

/// The most vCPUs a VM may have: APIC ids are 8 bits wide and 255 means all of them.
pub const CPUS_MAX: u32 = 254;
/// The longest that a guest may be given to power off, in seconds: a day.
pub const STOP_TIMEOUT_MAX_S: u32 = 86_400;

/// One VM as it is written: `vm.json`, or the flags of `bulkhead run`. Unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The VM's name; by default `vm-` and the jailer's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The guest kernel: bzImage or ELF with a PVH entry.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel command line, in place of the default one: `console=ttyS0 panic=1`, and
    /// `root=/dev/vda rw` if there is a disk and no initrd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// The number of vCPUs, 1 to 254.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// The model of the processor, on x86_64: `host`, `x86-64-v2` or `x86-64-v3`, and any of `+FEATURE`
    /// and `-FEATURE`, separated by commas.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub cpu: CpuModel,
    /// The guest's memory.
    #[serde(default = "default_mem")]
    pub mem: ByteSize,
    /// The page size guest memory comes in.
    #[serde(default)]
    pub hugepages: HugePages,
    /// Whether all guest memory is allocated before the guest starts.
    #[serde(default)]
    pub prefault: bool,
    /// The node of the host that guest memory comes from, and no other; by default the kernel
    /// chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_numa_node: Option<u32>,
    /// The disks, in the order the guest finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// The network cards: the guest finds those with a tap before the others, each kind in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetSpec>,
    /// The devices served by other programs, in the order the guest finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vhost_user: Vec<VhostUserSpec>,
    /// Where COM1 leads.
    #[serde(default)]
    pub console: Console,
    /// The interrupt controller.
    #[serde(default)]
    pub irqchip: Irqchip,
    /// The power button.
    #[serde(default)]
    pub power_button: PowerButton,
    /// The version of the machine: what the guest sees of it, which stays the same for as long as the
    /// version does. There is one, 1.
    #[serde(
        default = "default_machine",
        skip_serializing_if = "is_default_machine"
    )]
    pub machine: u32,
    /// What a guest reboot does.
    #[serde(default)]
    pub on_reboot: OnReboot,
    /// How long the guest may take to power off once it was asked to, in seconds, 1 to 86400; then the
    /// VM is ended at once. Left out, it may take as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// What a system call outside the filters does.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// How its processes write to the log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// The users that its processes run as; by default a free range is found, and a user who is not
    /// root has no other than their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid_range: Option<UidRange>,
    /// Where the VM's control groups are: `inherit`, or below the group of this path; by default the
    /// jailer chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    /// What control groups hold the VM and its processes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitsSpec>,
    /// On which of the host's processors the VM's processes and vCPUs run; by default where the jailer
    /// was started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<AffinitySpec>,
}

fn default_cpus() -> u32 {
    1
}

fn default_machine() -> u32 {
    MACHINE
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references
fn is_default_machine(version: &u32) -> bool {
    *version == default_machine()
}

fn default_mem() -> ByteSize {
    ByteSize(512 << 20)
}

impl VmSpec {
    /// A VM that boots `kernel`, everything else at its default.
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: None,
            kernel: kernel.into(),
            initrd: None,
            cmdline: None,
            cpus: default_cpus(),
            cpu: CpuModel::default(),
            mem: default_mem(),
            hugepages: HugePages::default(),
            prefault: false,
            host_numa_node: None,
            disks: Vec::new(),
            nets: Vec::new(),
            vhost_user: Vec::new(),
            console: Console::default(),
            irqchip: Irqchip::default(),
            power_button: PowerButton::default(),
            machine: default_machine(),
            on_reboot: OnReboot::default(),
            stop_timeout: None,
            seccomp: Seccomp::default(),
            log_format: LogFormat::default(),
            uid_range: None,
            cgroup: None,
            limits: Vec::new(),
            affinity: Vec::new(),
        }
    }
}

/// One VM, validated: everything that can be checked without the host holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The VM's name, if it was given one.
    pub name: Option<VmName>,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The effective kernel command line: no NUL, at most [`crate::CMDLINE_MAX_BYTES`].
    pub cmdline: String,
    /// The number of vCPUs, 1 to [`CPUS_MAX`].
    pub cpus: u8,
    /// The model of the processor, one that machines of this architecture can have.
    pub cpu: CpuModel,
    /// The guest's memory.
    pub memory: Memory,
    /// The disks; with `nets` and `vhost_user` at most [`crate::DEVICES_MAX`], no two with the same
    /// name or slot.
    pub disks: Vec<Disk>,
    /// The NICs.
    pub nets: Vec<Net>,
    /// The external vhost-user devices.
    pub vhost_user: Vec<VhostUser>,
    /// Where COM1 leads.
    pub console: Console,
    /// The interrupt controller, one that machines of this architecture can have.
    pub irqchip: Irqchip,
    /// The power button, one that machines of this architecture can have; not `Auto`.
    pub power_button: PowerButton,
    /// The version of the machine, one that there is.
    pub machine: u32,
    /// What a guest reboot does.
    pub on_reboot: OnReboot,
    /// How long the guest may take to power off when asked.
    pub stop_timeout: Option<Duration>,
    /// What the kernel does about a system call outside the filters.
    pub seccomp: Seccomp,
    /// How its processes write to the log.
    pub log_format: LogFormat,
    /// The users that its processes run as, at least [`Vm::users`]; by default the jailer picks a
    /// free range.
    pub uid_range: Option<UidRange>,
    /// Where the VM's control groups are, if the user says so.
    pub cgroup: Option<Cgroup>,
    /// The limits that control groups set, at most one entry for each process.
    pub limits: Vec<Limits>,
    /// Where the VM's processes and vCPUs run.
    pub affinity: Affinity,
}

impl Vm {
    /// How many users the VM's processes need: the supervisor, the vmm, and one for each disk, each
    /// NIC and a power button that is a device.
    pub fn users(&self) -> u32 {
        let button = usize::from(self.power_button == PowerButton::Virtio);
        let devices = self.disks.len() + self.nets.len() + button;
        2 + u32::try_from(devices).unwrap_or(u32::MAX - 2)
    }

    /// How many threads the user of a process may have, if no control group of the process's own
    /// counts them.
    pub fn threads_max(&self, held: Held) -> Option<u32> {
        let is_held = |limits: &&Limits| limits.held == held;
        match self.cgroup {
            Some(Cgroup::Inherit) => self.limits.iter().find(is_held)?.pids,
            Some(Cgroup::Below(_)) | None => None,
        }
    }
}

type CheckedDevices = (Vec<Disk>, Vec<Net>, Vec<VhostUser>);

/// Checks each device by itself, and all against each other.
fn check_devices(
    disks: Vec<DiskSpec>,
    nets: &[NetSpec],
    others: Vec<VhostUserSpec>,
) -> Result<CheckedDevices, SpecError> {
    let slots = slots::assign(&disks, nets, &others)?;
    let disks = (0..).zip(disks).zip(slots.disks);
    let disks = disks.map(|((number, disk), slot)| Disk::check(number, disk, slot));
    let nets = (0..).zip(nets).zip(slots.nets);
    let nets = nets.map(|((number, net), slot)| Net::check(number, net, slot));
    let others = (0..).zip(others).zip(slots.vhost_user);
    let others = others.map(|((number, one), slot)| VhostUser::check(number, one, slot));
    let disks = disks.collect::<Result<Vec<_>, _>>()?;
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let nets = nets.collect::<Result<Vec<_>, _>>()?;
    let ids = disks.iter().map(|disk| ("disk.id", &disk.id));
    let ids = ids.chain(nets.iter().map(|net| ("net.id", &net.id)));
    check_unique(ids.chain(others.iter().map(|device| ("vhost-user.id", &device.id))))?;
    Net::check_all(&nets)?;
    Ok((disks, nets, others))
}

impl TryFrom<VmSpec> for Vm {
    type Error = SpecError;

    fn try_from(spec: VmSpec) -> Result<Self, SpecError> {
        let name = match spec.name {
            Some(text) => match text.parse::<VmName>() {
                Ok(name) => Some(name),
                Err(reason) => return Err(SpecError::new("name", text, reason)),
            },
            None => None,
        };
        let cpus = match u8::try_from(spec.cpus) {
            Ok(cpus) if cpus >= 1 && u32::from(cpus) <= CPUS_MAX => cpus,
            _ => {
                return Err(SpecError::new(
                    "cpus",
                    spec.cpus,
                    format!("must be 1 to {CPUS_MAX}"),
                ));
            }
        };
        check_path("kernel", &spec.kernel)?;
        if let Some(initrd) = &spec.initrd {
            check_path("initrd", initrd)?;
        }
        let (disks, nets, vhost_user) = check_devices(spec.disks, &spec.nets, spec.vhost_user)?;
        let default_cmdline = || default_cmdline(&spec.console, spec.initrd.as_ref(), &disks);
        let cmdline = spec.cmdline.unwrap_or_else(default_cmdline);
        check_cmdline(&cmdline)?;
        let memory = Memory::new(spec.mem, spec.hugepages, spec.prefault)?;
        let memory = memory.on_node(spec.host_numa_node);
        let vm = Self {
            name,
            kernel: spec.kernel,
            initrd: spec.initrd,
            cmdline,
            cpus,
            cpu: check_cpu(spec.cpu, std::env::consts::ARCH)?,
            memory,
            limits: Limits::check_all(&spec.limits, memory, &disks, &nets)?,
            affinity: Affinity::check_all(&spec.affinity, cpus, &disks, &nets)?,
            disks,
            nets,
            vhost_user,
            console: spec.console.check()?,
            irqchip: spec.irqchip.check(std::env::consts::ARCH)?,
            power_button: spec.power_button.check(std::env::consts::ARCH)?,
            machine: check_machine(spec.machine)?,
            on_reboot: spec.on_reboot,
            stop_timeout: spec.stop_timeout.map(check_stop_timeout).transpose()?,
            seccomp: spec.seccomp,
            log_format: spec.log_format,
            uid_range: spec.uid_range,
            cgroup: spec.cgroup,
        };
        check_users(&vm)?;
        Ok(vm)
    }
}

/// How long a guest may take to power off, from the number of seconds in a document, flag or
/// request.
///
/// # Errors
/// When it is not 1 to [`STOP_TIMEOUT_MAX_S`].
pub fn check_stop_timeout(seconds: u32) -> Result<Duration, SpecError> {
    if (1..=STOP_TIMEOUT_MAX_S).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let reason = format!("must be 1 to {STOP_TIMEOUT_MAX_S} seconds; left out, nothing limits it");
    Err(SpecError::new("stop-timeout", seconds, reason))
}

fn check_machine(version: u32) -> Result<u32, SpecError> {
    if version == MACHINE {
        return Ok(version);
    }
    let reason = format!("is no machine that this build knows: it knows {MACHINE}");
    Err(SpecError::new("machine", version, reason))
}

/// Refuses what machines of an architecture cannot have.
fn check_cpu(cpu: CpuModel, arch: &str) -> Result<CpuModel, SpecError> {
    if arch == "x86_64" || cpu.is_default() {
        return Ok(cpu);
    }
    let reason = format!(
        "models are of x86_64: a guest of {arch} has the processor that its host has, so it must be host"
    );
    Err(SpecError::new("cpu", cpu, reason))
}

fn check_users(vm: &Vm) -> Result<(), SpecError> {
    match vm.uid_range {
        Some(range) if range.count < vm.users() => {
            let needed = vm.users();
            let reason = format!("is too small: this VM's processes are {needed} users");
            Err(SpecError::new("uid-range", range, reason))
        }
        _ => Ok(()),
    }
}

fn check_path(field: &'static str, path: &std::path::Path) -> Result<(), SpecError> {
    if path.as_os_str().is_empty() {
        return Err(SpecError::new(field, "", "must name a file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
