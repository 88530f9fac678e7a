// SPDX-License-Identifier: Apache-2.0
//! The flags of `bulkhead run`.

use std::path::PathBuf;

use clap::Args;
use spec::{
    AffinitySpec, ByteSize, Cgroup, Console, CpuModel, DiskSpec, HugePages, Irqchip, LimitsSpec,
    LogFormat, NetSpec, OnReboot, PowerButton, Seccomp, UidRange, VhostUserSpec, VmName,
};

/// `bulkhead run`. With `--config`, only the flags that are about this one start can be given.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The VM's name [default: vm- and this process's id]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<VmName>,
    /// The guest kernel: bzImage, or ELF with a PVH entry
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub(crate) kernel: Option<PathBuf>,
    /// An initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel command line, in place of the default one (`bulkhead inspect` shows it)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,
    /// The number of vCPUs, 1 to 254 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) cpus: Option<u32>,
    /// The model of the processor, on x86_64: host, x86-64-v2 or x86-64-v3, and any of +FEATURE and
    /// -FEATURE, separated by commas [default: host]
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<CpuModel>,
    /// The guest's memory, such as 512M or 4G [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) mem: Option<ByteSize>,
    /// The page size guest memory comes in: none, thp, 2M or 1G [default: none]
    #[arg(long, value_name = "SIZE")]
    pub(crate) hugepages: Option<HugePages>,
    /// Allocate all guest memory before the guest starts
    #[arg(long)]
    pub(crate) prefault: bool,
    /// The host's node that guest memory comes from, and no other [default: the kernel chooses]
    #[arg(long, value_name = "NODE")]
    pub(crate) host_numa_node: Option<u32>,
    /// A disk, served by a process of its own: path=F, and any of id=ID, readonly, queues=1..16,
    /// queue-size=16..1024, engine=uring|threads, direct, block-size=512|4096, serial=TEXT, poll-us=N,
    /// slot=1..24, separated by commas; can be given several times
    #[arg(long = "disk", value_name = "DISK")]
    pub(crate) disks: Vec<DiskSpec>,
    /// A network card: tap=NAME, and any of id=ID, mac=ADDRESS, mtu=N, queues=1..8,
    /// queue-size=64..1024, bridge=NAME, up=PROGRAM, down=PROGRAM, any-mac, any-service,
    /// ipv4=ADDRESS..., ipv6=ADDRESS..., slot=1..24, separated by commas; or fd=N..., the open descriptors of a
    /// tap, and the same but mtu, queues, bridge, up and down; or user, and any of id=ID, mac=ADDRESS,
    /// slot=1..24, forward=tcp|udp:HOST:GUEST...; can be given several times
    #[arg(long = "net", value_name = "CARD")]
    pub(crate) nets: Vec<NetSpec>,
    /// A device of another program that serves vhost-user: type=fs|vsock|rng|blk|net|ID,socket=F,
    /// and any of id=ID, tag=TAG, queues=N, queue-size=N, slot=1..24; can be given several times
    #[arg(long, value_name = "DEVICE")]
    pub(crate) vhost_user: Vec<VhostUserSpec>,
    /// Where COM1 leads: stdio, pty, socket, socket=F, file=F or none [default: stdio]
    #[arg(long, value_name = "WHERE")]
    pub(crate) console: Option<Console>,
    /// The interrupt controller: auto, gicv3 or gicv2 on aarch64, aia or plic on riscv64
    /// [default: auto]
    #[arg(long, value_name = "KIND")]
    pub(crate) irqchip: Option<Irqchip>,
    /// The power button: auto, acpi on x86_64, gpio on aarch64, virtio or none [default: auto]
    #[arg(long, value_name = "KIND")]
    pub(crate) power_button: Option<PowerButton>,
    /// The version of the machine, of what the guest sees of it: 1 [default: 1]
    #[arg(long, value_name = "VERSION")]
    pub(crate) machine: Option<u32>,
    /// What a guest reboot does: restart or exit [default: restart]
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_reboot: Option<OnReboot>,
    /// End the VM if its guest has not powered off so long after it was asked to
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u32>,
    /// What a system call outside the filters does: on kills, log names the call first
    /// [default: on]
    #[arg(long, value_name = "MODE")]
    pub(crate) seccomp: Option<Seccomp>,
    /// How the VM's processes write to its log: text, or json for an object on each line
    /// [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// The user ids that the VM's processes run as, for this VM alone [default: a free range]
    #[arg(long, value_name = "FIRST:COUNT")]
    pub(crate) uid_range: Option<UidRange>,
    /// Where the VM's control groups are: inherit makes none and leaves its processes in the group that
    /// it is started in; a path makes them below that group, as /proc/PID/cgroup names it
    #[arg(long, value_name = "GROUP")]
    pub(crate) cgroup: Option<Cgroup>,
    /// What control groups hold processes to: of=vm|supervisor|vmm|ID, and any of memory=SIZE (of vm),
    /// cpu=PERCENT, cpu-weight=1..10000, pids=N, read-bps=SIZE, write-bps=SIZE, read-iops=N, write-iops=N (of a disk),
    /// separated by commas; can be given several times
    #[arg(long, value_name = "LIMITS")]
    pub(crate) limits: Vec<LimitsSpec>,
    /// On which of the host's processors a process or vCPU runs: of=vm|supervisor|vmm|vcpus|vcpuN|ID and
    /// cpus=LIST such as 0-3,,8 (a comma is written twice); can be given several times
    #[arg(long, value_name = "WHERE")]
    pub(crate) affinity: Vec<AffinitySpec>,
    /// A group, by number, whose members may use the VM's API and console, too
    #[arg(long, value_name = "GID")]
    pub(crate) api_gid: Option<u32>,
    /// Return when the guest has started, and print the VM's name
    #[arg(long)]
    pub(crate) detach: bool,
    /// The VM as a JSON file; --name and --console go before what it says
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "kernel", "initrd", "cmdline", "cpus", "cpu", "mem", "hugepages", "prefault", "host_numa_node",
        "disks",
        "nets", "vhost_user", "irqchip", "power_button", "machine", "on_reboot", "stop_timeout", "seccomp",
        "log_format",
        "uid_range", "cgroup", "limits", "affinity",
    ])]
    pub(crate) config: Option<PathBuf>,
}
