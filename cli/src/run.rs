// SPDX-License-Identifier: Apache-2.0
//! `bulkhead run`: writes the VM that the flags or a file describe, has a jailer validate and start
//! it, and stays with the jailer or detaches.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use spec::{SpecError, VmSpec};

use crate::args::RunArgs;
use crate::error::{Error, FAILED, USAGE, no_json};
use crate::spec_file;

mod child;
mod detach;
mod foreground;

/// The first descriptor that is no standard one.
const FIRST: i32 = 3;

/// The settings of a VM that concern the host only.
#[derive(Debug, Clone, Copy)]
struct Host<'a> {
    /// The directory for state directories.
    state_dir: Option<&'a Path>,
    /// A group whose members may use the VM's sockets.
    api_gid: Option<u32>,
}

/// Why a VM cannot be started or waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The spec cannot be passed to the jailer.
    #[error("cannot pass the VM to the jailer")]
    Document(#[source] io::Error),
    /// A socket or pipe for the jailer cannot be made.
    #[error("cannot make a socket for the jailer")]
    Socket(#[source] Errno),
    /// The jailer cannot be executed.
    #[error("jailer {0:?}: it belongs beside bulkhead")]
    Jailer(PathBuf, #[source] io::Error),
    /// The jailer cannot be waited for.
    #[error("cannot wait for the jailer")]
    Wait(#[source] io::Error),
    /// The jailer was killed.
    #[error("the jailer was killed by signal {0}, and the VM with it")]
    Killed(i32),
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Self {
        Self::new(error)
    }
}

/// Starts a VM; returns the jailer's exit status.
pub(crate) fn run(args: RunArgs, state_dir: Option<&Path>, json: bool) -> Result<u8, Error> {
    let detach = args.detach;
    if json && !detach {
        return Err(no_json("run", "run --detach --json, then wait --json"));
    }
    let host = Host {
        state_dir,
        api_gid: args.api_gid,
    };
    let is_from_file = args.config.is_some();
    let spec = spec(args)?;
    check_descriptors(&spec)?;
    // Fail before starting the jailer.
    crate::state::base(state_dir)?;
    let status = match detach {
        true => detach::run(&spec, host, json)?,
        false => foreground::run(&spec, host)?,
    };
    // The jailer takes an invalid VM for a wrong command line, which a wrong file is not.
    Ok(match status {
        USAGE if is_from_file => FAILED,
        status => status,
    })
}

/// The descriptors that cards name as their taps. The jailer refuses standard ones.
fn tap_fds(spec: &VmSpec) -> impl Iterator<Item = i32> {
    let all = spec.nets.iter().flat_map(|net| &net.fd).copied();
    all.filter(|number| *number >= FIRST)
}

/// Checks that we were started with the taps' descriptors open, before we open anything that would
/// get one of their numbers.
fn check_descriptors(spec: &VmSpec) -> Result<(), SpecError> {
    let open = Path::new("/proc/self/fd");
    let missing = |number: &i32| open.join(number.to_string()).symlink_metadata().is_err();
    match tap_fds(spec).find(missing) {
        Some(number) => {
            let reason = "no descriptor of this number is open: start bulkhead with it open";
            Err(SpecError::new("net.fd", number, reason))
        }
        None => Ok(()),
    }
}

/// The VM of the flags or the file, with a name.
fn spec(args: RunArgs) -> Result<VmSpec, Error> {
    let mut spec = match &args.config {
        Some(path) => spec_file::read(path)?,
        None => from_flags(&args),
    };
    if let Some(name) = args.name {
        spec.name = Some(name.to_string());
    }
    if let Some(console) = args.console {
        spec.console = console;
    }
    let made_up = || format!("vm-{}", std::process::id());
    spec.name = Some(spec.name.unwrap_or_else(made_up));
    Ok(spec)
}

fn from_flags(args: &RunArgs) -> VmSpec {
    let defaults = VmSpec::new(args.kernel.clone().unwrap_or_default());
    VmSpec {
        initrd: args.initrd.clone(),
        cmdline: args.cmdline.clone(),
        cpus: args.cpus.unwrap_or(defaults.cpus),
        cpu: args.cpu.clone().unwrap_or_default(),
        mem: args.mem.unwrap_or(defaults.mem),
        hugepages: args.hugepages.unwrap_or(defaults.hugepages),
        prefault: args.prefault,
        host_numa_node: args.host_numa_node,
        disks: args.disks.clone(),
        nets: args.nets.clone(),
        vhost_user: args.vhost_user.clone(),
        irqchip: args.irqchip.unwrap_or(defaults.irqchip),
        power_button: args.power_button.unwrap_or(defaults.power_button),
        machine: args.machine.unwrap_or(defaults.machine),
        on_reboot: args.on_reboot.unwrap_or(defaults.on_reboot),
        stop_timeout: args.stop_timeout,
        seccomp: args.seccomp.unwrap_or(defaults.seccomp),
        log_format: args.log_format.unwrap_or(defaults.log_format),
        uid_range: args.uid_range,
        cgroup: args.cgroup.clone(),
        limits: args.limits.clone(),
        affinity: args.affinity.clone(),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;
    use spec::{ByteSize, Console};

    fn parsed(args: &[&str]) -> Result<VmSpec, Error> {
        let args = ["bulkhead", "run"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().verb {
            Verb::Run(args) => spec(*args),
            _ => unreachable!(),
        }
    }

    #[test]
    fn flags_say_what_the_document_says() {
        let flags = parsed(&[
            "--name=a",
            "--kernel=/k",
            "--initrd=/i",
            "--cmdline=-x y",
            "--cpus=2",
            "--cpu=x86-64-v2,+aes",
            "--mem=1G",
            "--hugepages=2M",
            "--prefault",
            "--host-numa-node=1",
            "--disk=path=/a,readonly",
            "--disk=path=/b,queues=4,slot=7",
            "--net=tap=tap0,queues=2,bridge=br0,ipv4=10.0.0.2,ipv4=10.0.0.3",
            "--net=user,any-mac,forward=tcp:8080:80",
            "--vhost-user=type=fs,socket=/s,tag=t",
            "--console=file=/tmp/o",
            "--power-button=virtio",
            "--machine=1",
            "--on-reboot=exit",
            "--stop-timeout=90",
            "--seccomp=log",
            "--log-format=json",
            "--uid-range=70000:8",
            "--cgroup=/machine.slice/a",
            "--limits=of=vm,memory=2G,cpu=150,cpu-weight=200",
            "--affinity=of=vcpu0,cpus=0-1,,4",
        ]);
        let document = VmSpec::from_json(
            br#"{"name":"a","kernel":"/k","initrd":"/i","cmdline":"-x y","cpus":2,"cpu":"x86-64-v2,+aes","mem":"1G",
            "hugepages":"2M","prefault":true,"host_numa_node":1,"console":"file=/tmp/o","power_button":"virtio","machine":1,"on_reboot":"exit","stop_timeout":90,
            "seccomp":"log","log_format":"json","uid_range":"70000:8","cgroup":"/machine.slice/a","disks":[{"path":"/a","readonly":true},{"path":"/b","queues":4,"slot":7}],
            "nets":[{"tap":"tap0","queues":2,"bridge":"br0","ipv4":["10.0.0.2","10.0.0.3"]},
            {"user":true,"any_mac":true,"forward":["tcp:8080:80"]}],
            "vhost_user":[{"type":"fs","socket":"/s","tag":"t"}],
            "limits":[{"of":"vm","memory":"2G","cpu":150,"cpu_weight":200}],
            "affinity":[{"of":"vcpu0","cpus":"0-1,4"}]}"#,
        );
        assert_eq!(flags.unwrap(), document.unwrap());
    }

    #[test]
    fn flags_left_out_are_the_defaults_and_a_name_is_made_up() {
        let mut spec = parsed(&["--kernel", "/k"]).unwrap();
        let name = spec.name.take().unwrap();
        assert!(name.starts_with("vm-"), "{name}");
        assert_eq!(spec, VmSpec::new("/k"));
    }

    #[test]
    fn name_and_console_go_before_what_the_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vm.json");
        std::fs::write(&file, r#"{"name":"a","kernel":"/k","mem":"1G"}"#).unwrap();
        let file = file.to_str().unwrap();
        let spec = parsed(&["--config", file, "--name", "b", "--console", "none"]).unwrap();
        assert_eq!(spec.name.as_deref(), Some("b"));
        assert_eq!((spec.console, spec.mem), (Console::None, ByteSize(1 << 30)));
    }
}
