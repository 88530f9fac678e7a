// SPDX-License-Identifier: Apache-2.0
//! A completed document of the dialect as a [`VmSpec`].

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use spec::{
    ByteSize, Cgroup, Console, DiskSpec, HugePages, NetSpec, VhostUserSpec, VhostUserType, VmName,
    VmSpec,
};

use crate::fault::Fault;

/// The parts of a document that are used.
#[derive(Debug, Deserialize)]
struct Config {
    payload: Payload,
    cpus: Cpus,
    memory: Memory,
    disks: Option<Vec<Disk>>,
    net: Option<Vec<Net>>,
    fs: Option<Vec<Fs>>,
    serial: Port,
    console: Port,
}

#[derive(Debug, Deserialize)]
struct Payload {
    kernel: Option<PathBuf>,
    cmdline: Option<String>,
    initramfs: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Cpus {
    boot_vcpus: u32,
    max_vcpus: u32,
}

#[derive(Debug, Deserialize)]
struct Memory {
    size: u64,
    hugepages: bool,
    hugepage_size: Option<u64>,
    prefault: bool,
}

#[derive(Debug, Deserialize)]
struct Disk {
    path: Option<PathBuf>,
    id: String,
    readonly: bool,
    direct: bool,
    num_queues: u32,
    queue_size: u32,
    serial: Option<String>,
    image_type: Option<String>,
    vhost_user: bool,
    vhost_socket: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Net {
    tap: Option<String>,
    id: String,
    mac: Option<String>,
    mtu: Option<u32>,
    num_queues: u32,
    queue_size: u32,
    vhost_user: bool,
    vhost_socket: Option<PathBuf>,
    vhost_mode: String,
}

#[derive(Debug, Deserialize)]
struct Fs {
    tag: String,
    socket: PathBuf,
    num_queues: u32,
    queue_size: u32,
    id: String,
}

#[derive(Debug, Deserialize)]
struct Port {
    mode: Mode,
    file: Option<PathBuf>,
    socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Mode {
    Off,
    Null,
    Tty,
    Pty,
    File,
    Socket,
}

/// The queues of taps that came as descriptors: by the number of the card, their numbers here.
pub type TapFds = BTreeMap<usize, Vec<RawFd>>;

/// The VM that a completed document describes.
///
/// # Errors
/// The field that is wrong, and how.
pub fn translate(document: &Value, name: &VmName, taps: &TapFds) -> Result<VmSpec, Fault> {
    let config: Config = serde_path_to_error::deserialize(document).map_err(|error| Fault {
        status: 400,
        chain: vec!["Failed to deserialize JSON".into(), error.to_string()],
    })?;
    let Some(kernel) = config.payload.kernel else {
        return Err(Fault::bad("payload.kernel is missing: a VM boots a kernel"));
    };
    if config.cpus.max_vcpus < config.cpus.boot_vcpus {
        return Err(Fault::bad(
            "cpus.max_vcpus must be at least cpus.boot_vcpus",
        ));
    }
    let mut spec = VmSpec::new(kernel);
    spec.name = Some(name.to_string());
    spec.initrd = config.payload.initramfs;
    spec.cmdline = Some(config.payload.cmdline.unwrap_or_default());
    spec.cpus = config.cpus.boot_vcpus;
    spec.mem = ByteSize(config.memory.size);
    spec.hugepages = huge_pages(&config.memory)?;
    spec.prefault = config.memory.prefault;
    spec.console = console(&config.serial, &config.console)?;
    // A manager that starts this program has put it into a group, and limits the VM by that.
    spec.cgroup = Some(Cgroup::Inherit);
    for (at, disk) in (0..).zip(config.disks.unwrap_or_default()) {
        add_disk(&mut spec, at, disk)?;
    }
    for (at, net) in (0..).zip(config.net.unwrap_or_default()) {
        add_net(&mut spec, at, net, taps.get(&at))?;
    }
    for fs in config.fs.unwrap_or_default() {
        spec.vhost_user.push(VhostUserSpec {
            tag: Some(fs.tag),
            // The high-priority queue is counted here, and not in the dialect.
            queues: Some(fs.num_queues.saturating_add(1)),
            queue_size: fs.queue_size,
            ..external(VhostUserType::Fs, fs.socket, &fs.id)
        });
    }
    match spec::Vm::try_from(spec.clone()) {
        Ok(_) => Ok(spec),
        Err(error) => Err(Fault::bad(error.to_string())),
    }
}

fn huge_pages(memory: &Memory) -> Result<HugePages, Fault> {
    match (memory.hugepages, memory.hugepage_size) {
        (false, _) => Ok(HugePages::None),
        (true, None | Some(0x20_0000)) => Ok(HugePages::Size2M),
        (true, Some(0x4000_0000)) => Ok(HugePages::Size1G),
        (true, Some(size)) => Err(Fault::bad(format!(
            "memory.hugepage_size {size}: must be 2 MiB or 1 GiB, in bytes"
        ))),
    }
}

/// The serial port, which is what a guest's console is here.
fn serial(port: &Port) -> Result<Console, Fault> {
    let path = |path: &Option<PathBuf>, field: &str| {
        let missing = || Fault::bad(format!("serial.{field} is missing"));
        path.clone().ok_or_else(missing)
    };
    Ok(match port.mode {
        Mode::Off | Mode::Null => Console::None,
        Mode::Tty => Console::Stdio,
        Mode::Pty => Console::Pty,
        Mode::File => Console::File(path(&port.file, "file")?),
        Mode::Socket => Console::SocketAt(path(&port.socket, "socket")?),
    })
}

/// The guest's console: the serial port, or a console that libvirt 9.0 can only have as a
/// pseudo-terminal; then the serial port stands for it. `Tty` is what clients have that say nothing.
fn console(serial_port: &Port, console: &Port) -> Result<Console, Fault> {
    match (serial_port.mode, console.mode) {
        (_, Mode::Off | Mode::Null | Mode::Tty) => serial(serial_port),
        (Mode::Off | Mode::Null, Mode::Pty) => Ok(Console::Pty),
        (_, mode) => Err(Fault::bad(format!(
            "console.mode {mode:?} is not supported: there is no virtio-console. Use serial, and \
             console=ttyS0 on the kernel's command line"
        ))),
    }
}

fn add_disk(spec: &mut VmSpec, at: usize, disk: Disk) -> Result<(), Fault> {
    if disk.vhost_user {
        let missing = || Fault::bad(format!("disks[{at}].vhost_socket is missing"));
        let socket = disk.vhost_socket.ok_or_else(missing)?;
        spec.vhost_user.push(VhostUserSpec {
            queues: Some(disk.num_queues),
            queue_size: disk.queue_size,
            ..external(VhostUserType::Blk, socket, &disk.id)
        });
        return Ok(());
    }
    if let Some(kind) = disk.image_type.filter(|kind| kind != "Raw") {
        let reason = format!("disks[{at}].image_type {kind:?} is not supported: images are Raw");
        return Err(Fault::bad(reason));
    }
    let missing = || Fault::bad(format!("disks[{at}].path is missing"));
    spec.disks.push(DiskSpec {
        id: chosen(&disk.id),
        readonly: disk.readonly,
        direct: disk.direct,
        queues: disk.num_queues,
        queue_size: disk.queue_size,
        serial: disk.serial,
        ..DiskSpec::new(disk.path.ok_or_else(missing)?)
    });
    Ok(())
}

fn add_net(spec: &mut VmSpec, at: usize, net: Net, fds: Option<&Vec<RawFd>>) -> Result<(), Fault> {
    let field = |name: &str| format!("net[{at}].{name}");
    if net.vhost_user {
        let missing = || Fault::bad(format!("{} is missing", field("vhost_socket")));
        let socket = net.vhost_socket.ok_or_else(missing)?;
        if net.vhost_mode != "Client" {
            let what = field("vhost_mode");
            return Err(Fault::bad(format!(
                "{what} must be Client: the backend listens"
            )));
        }
        spec.vhost_user.push(VhostUserSpec {
            queues: Some(net.num_queues),
            queue_size: net.queue_size,
            ..external(VhostUserType::Net, socket, &net.id)
        });
        return Ok(());
    }
    let pairs = net.num_queues / 2;
    if !net.num_queues.is_multiple_of(2) || pairs == 0 {
        let what = field("num_queues");
        return Err(Fault::bad(format!(
            "{what} must be even: two for each pair"
        )));
    }
    let mut card = NetSpec {
        id: chosen(&net.id),
        mac: net.mac,
        queues: pairs,
        queue_size: net.queue_size,
        ..NetSpec::default()
    };
    match (fds, net.tap) {
        // The program that opened the tap has set its MTU.
        (Some(fds), _) => card.fd.clone_from(fds),
        (None, Some(tap)) => (card.tap, card.mtu) = (Some(tap), net.mtu),
        (None, None) => {
            let what = field("tap");
            return Err(Fault::bad(format!(
                "{what} is missing: name a tap, or send descriptors with vm.add-net"
            )));
        }
    }
    spec.nets.push(card);
    Ok(())
}

/// The name that the client chose. One that was invented here is no name of Bulkhead's.
fn chosen(id: &str) -> Option<String> {
    (!id.starts_with('_')).then(|| id.to_owned())
}

fn external(kind: VhostUserType, socket: PathBuf, id: &str) -> VhostUserSpec {
    VhostUserSpec {
        kind,
        socket,
        id: chosen(id),
        tag: None,
        queues: None,
        queue_size: 256,
        slot: None,
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
