// SPDX-License-Identifier: Apache-2.0
//! The command line: verbs, flags, and the help that teaches them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use spec::{
    ByteSize, Console, DiskSpec, HugePages, LimitsSpec, NetSpec, OnReboot, Seccomp, UidRange,
    VhostUserSpec, VmName,
};

use crate::stats::Form;

const ABOUT: &str = "Runs virtual machines whose devices live in separate jailed processes.";

const EXAMPLES: &str = "\
Examples:
  bulkhead run --kernel vmlinuz --initrd initrd.img    boot a kernel, console on this terminal
  bulkhead run --name web --config web.json --detach   start a VM in the background
  bulkhead ps                                          what is running
  bulkhead console web                                 attach to its console (Ctrl-a x detaches)
  bulkhead stop web                                    press its power button

Exit status: 0 the guest powered off, 1 error, 2 usage, 3 the guest panicked or crashed.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Where the state directories of VMs are, instead of /run/bulkhead (root) or
    /// $XDG_RUNTIME_DIR/bulkhead
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How a cable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LinkState {
    /// Plugged in.
    Up,
    /// Pulled.
    Down,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a VM, and stay with it until it ends
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// List the VMs
    #[command(after_help = "Examples:\n  bulkhead ps\n  bulkhead ps --json | jq -r '.[].name'")]
    Ps {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Attach this terminal to a VM's console
    #[command(after_help = CONSOLE_EXAMPLES)]
    Console {
        /// The VM's name
        vm: VmName,
    },
    /// Press a VM's power button, or end it at once
    #[command(after_help = STOP_EXAMPLES)]
    Stop {
        /// The VM's name
        vm: VmName,
        /// Do not ask the guest; return when the VM is gone
        #[arg(long)]
        force: bool,
    },
    /// Stop a VM's vCPUs
    #[command(after_help = "Example:\n  bulkhead pause web && bulkhead resume web")]
    Pause {
        /// The VM's name
        vm: VmName,
    },
    /// Let a paused VM run again
    #[command(after_help = "Example:\n  bulkhead resume web")]
    Resume {
        /// The VM's name
        vm: VmName,
    },
    /// Replace the backend of a device, or bring one to a device that stalls
    #[command(after_help = RESTART_EXAMPLES)]
    Restart {
        /// The VM's name
        vm: VmName,
        /// The device, as `bulkhead inspect` names it
        device: String,
        /// Return when the next backend serves the device
        #[arg(long)]
        wait: bool,
    },
    /// Plug a network card's cable in, or pull it
    #[command(after_help = "Example:\n  bulkhead link web net0 down")]
    Link {
        /// The VM's name
        vm: VmName,
        /// The network card, as `bulkhead inspect` names it
        nic: String,
        /// up or down
        state: LinkState,
    },
    /// Replace the program behind a device while the guest uses it
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade {
        /// The VM's name
        vm: VmName,
        /// The device, as `bulkhead inspect` names it
        device: String,
        /// The new program
        #[arg(long, value_name = "FILE")]
        binary: PathBuf,
    },
    /// Show a VM: its state, spec, command line and processes
    #[command(after_help = "Examples:\n  bulkhead inspect web\n  \
                            bulkhead inspect web --json | jq -r .pty")]
    Inspect {
        /// The VM's name
        vm: VmName,
        /// Print JSON, as the API answers it
        #[arg(long)]
        json: bool,
    },
    /// Show what a VM has done so far: processor time, memory, requests, packets
    #[command(after_help = STATS_EXAMPLES)]
    Stats(StatsArgs),
    /// Show what has happened to a VM: backends that died or were replaced, pauses, reboots
    #[command(after_help = EVENTS_EXAMPLES)]
    Events {
        /// The VM's name
        vm: VmName,
        /// Go on with what happens, until the VM has ended
        #[arg(long, short)]
        follow: bool,
        /// Print JSON, one event on each line
        #[arg(long)]
        json: bool,
    },
    /// Check a VM's JSON file without starting it
    #[command(after_help = "Example:\n  bulkhead check vm.json && bulkhead run --config vm.json")]
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Show all VMs and their processes on the whole screen, every second
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        /// The VMs' names [default: all VMs]
        #[arg(value_name = "VM")]
        vms: Vec<VmName>,
    },
    /// Say what this host can give a VM, and what it lacks
    #[command(after_help = "Example:\n  bulkhead doctor")]
    Doctor,
    /// Print the JSON schema of a VM's file
    #[command(
        after_help = "Examples:\n  bulkhead schema > bulkhead-vm.schema.json\n  \
                            bulkhead schema --api > bulkhead-api.openapi.json"
    )]
    Schema {
        /// Print the OpenAPI document of a VM's API instead
        #[arg(long)]
        api: bool,
    },
    /// Print what a shell needs to complete our command line
    #[command(after_help = "Example:\n  bulkhead completions bash \
                            >/usr/share/bash-completion/completions/bulkhead")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each verb
    #[command(after_help = "Example:\n  bulkhead man /usr/local/share/man/man1")]
    Man {
        /// The directory they go to, made if need be
        dir: PathBuf,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  bulkhead run --kernel vmlinux --initrd initrd.img --cpus 2 --mem 1G
  bulkhead run --kernel vmlinuz --cmdline 'console=ttyS0 quiet' --console file=boot.log
  bulkhead run --name web --kernel vmlinuz --initrd initrd.img --detach
  bulkhead run --config vm.json --name second
  bulkhead run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 root=/dev/vda' \\
      --disk path=root.img --disk path=/dev/vg/data,direct,queues=4
  bulkhead run --kernel vmlinuz --initrd initrd.img --disk path=tools.img,readonly,serial=tools
  bulkhead run --kernel vmlinuz --initrd initrd.img --net tap=tap0,bridge=br0
  bulkhead run --kernel vmlinuz --initrd initrd.img --net user,forward=tcp:2222:22
  bulkhead run --kernel vmlinuz --initrd initrd.img \\
      --vhost-user type=fs,socket=/run/virtiofsd.sock,tag=home

Without --cmdline the kernel is given console=ttyS0 panic=1, and root=/dev/vda rw if there is a disk
and no initrd.

On a terminal: Ctrl-a x ends the VM, Ctrl-a c sends Ctrl-a, Ctrl-a h shows help.
SIGTERM or SIGINT presses the power button, a second one ends the VM at once.
Exit status: 0 the guest powered off, 1 error, 2 usage, 3 the guest panicked or crashed.";

const CONSOLE_EXAMPLES: &str = "\
Examples:
  bulkhead console web
  echo reboot | bulkhead console web >boot.log

On a terminal: Ctrl-a x detaches, Ctrl-a c sends Ctrl-a, Ctrl-a h shows help.";

const STOP_EXAMPLES: &str = "\
Examples:
  bulkhead stop web            the guest is asked to power off
  bulkhead stop web --force    as if its plug was pulled";

const RESTART_EXAMPLES: &str = "\
Examples:
  bulkhead restart web disk0           its backend is replaced
  bulkhead restart web disk0 --wait    the same; returns when the next one serves the disk

The guest sees a pause and nothing else. A device that stalled because its backends kept dying gets
another one.";

const UPGRADE_EXAMPLES: &str = "\
Example:
  bulkhead upgrade web disk0 --binary /opt/bulkhead-2/blk-backend

Returns when the new program serves the device. If it cannot, or dies before it has completed a
request, the old one goes on and the reason is printed.";

const STATS_EXAMPLES: &str = "\
Examples:
  bulkhead stats web
  bulkhead stats web --json | jq '.devices[] | {id, total}'
  bulkhead stats --prometheus >/var/lib/node_exporter/bulkhead.prom    of all VMs

Counters grow for as long as the VM lives, whatever is replaced or rebooted meanwhile. PSS, the memory
of a process less what others share, is shown only to those who may look: root, in most cases.";

const TOP_EXAMPLES: &str = "\
Examples:
  bulkhead top
  bulkhead top web db

q quits, the arrows or k and j choose a VM. MEM is what a process has less what others share (PSS), if
we may know that, and all of it (RSS) if not. SANDBOX is the user it runs as on the host, and whether
it has a seccomp filter (S), cannot gain privileges (N), has no capabilities (C), lives in a pid
namespace (P). DIED counts backends that were replaced. NO_COLOR turns colours off.";

const EVENTS_EXAMPLES: &str = "\
Examples:
  bulkhead events web
  bulkhead events web --follow --json | jq -r 'select(.kind == \"backend-died\") | .detail'

Times are in UTC. JSON has them on the host's monotonic clock, as the API does.";

/// `bulkhead stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// The VM's name [default: all VMs]
    pub(crate) vm: Option<VmName>,
    /// Print JSON; of all VMs, an array
    #[arg(long)]
    json: bool,
    /// Print the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
}

impl StatsArgs {
    /// How the answer is to be written.
    pub(crate) fn form(&self) -> Form {
        match (self.json, self.prometheus) {
            (true, _) => Form::Json,
            (_, true) => Form::Prometheus,
            (false, false) => Form::Table,
        }
    }
}

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
    /// The guest's memory, such as 512M or 4G [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) mem: Option<ByteSize>,
    /// The page size guest memory comes in: none, thp, 2M or 1G [default: none]
    #[arg(long, value_name = "SIZE")]
    pub(crate) hugepages: Option<HugePages>,
    /// Allocate all guest memory before the guest starts
    #[arg(long)]
    pub(crate) prefault: bool,
    /// A disk, served by a process of its own: path=F, and any of id=ID, readonly, queues=1..16,
    /// queue-size=16..1024, engine=uring|threads, direct, serial=TEXT, poll-us=N, separated by
    /// commas; can be given several times
    #[arg(long = "disk", value_name = "DISK")]
    pub(crate) disks: Vec<DiskSpec>,
    /// A network card: tap=NAME, and any of id=ID, mac=ADDRESS, mtu=N, queues=1..8,
    /// queue-size=64..1024, bridge=NAME, up=PROGRAM, down=PROGRAM, any-mac, any-service,
    /// ipv4=ADDRESS..., ipv6=ADDRESS..., separated by commas; or user, and any of id=ID, mac=ADDRESS,
    /// forward=tcp|udp:HOST:GUEST...; can be given several times
    #[arg(long = "net", value_name = "CARD")]
    pub(crate) nets: Vec<NetSpec>,
    /// A device of another program that serves vhost-user: type=fs|vsock|rng|blk|net|ID,socket=F,
    /// and any of id=ID, tag=TAG, queues=N, queue-size=N; can be given several times
    #[arg(long, value_name = "DEVICE")]
    pub(crate) vhost_user: Vec<VhostUserSpec>,
    /// Where COM1 leads: stdio, pty, socket, file=F or none [default: stdio]
    #[arg(long, value_name = "WHERE")]
    pub(crate) console: Option<Console>,
    /// What a guest reboot does: restart or exit [default: restart]
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_reboot: Option<OnReboot>,
    /// What a system call outside the filters does: on kills, log names the call first
    /// [default: on]
    #[arg(long, value_name = "MODE")]
    pub(crate) seccomp: Option<Seccomp>,
    /// The user ids that the VM's processes run as, for this VM alone [default: a free range]
    #[arg(long, value_name = "FIRST:COUNT")]
    pub(crate) uid_range: Option<UidRange>,
    /// What control groups hold processes to: of=vm|supervisor|vmm|ID, and any of memory=SIZE (of vm),
    /// cpu=PERCENT, pids=N, read-bps=SIZE, write-bps=SIZE, read-iops=N, write-iops=N (of a disk),
    /// separated by commas; can be given several times
    #[arg(long, value_name = "LIMITS")]
    pub(crate) limits: Vec<LimitsSpec>,
    /// A group, by number, whose members may use the VM's API and console, too
    #[arg(long, value_name = "GID")]
    pub(crate) api_gid: Option<u32>,
    /// Return when the guest has started, and print the VM's name
    #[arg(long)]
    pub(crate) detach: bool,
    /// The VM as a JSON file; --name and --console go before what it says
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "kernel", "initrd", "cmdline", "cpus", "mem", "hugepages", "prefault", "disks",
        "nets", "vhost_user", "on_reboot", "seccomp", "uid_range",
        "limits",
    ])]
    pub(crate) config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        use clap::CommandFactory;
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string);
            let name = verb.get_name();
            let example = format!("bulkhead {name}");
            assert!(help.is_some_and(|help| help.contains(&example)), "{name}");
        }
    }
}

#[cfg(test)]
#[path = "guide_tests.rs"]
mod guide;
