// SPDX-License-Identifier: Apache-2.0
//! Opens everything a VM may use, in one place before anything is started. It gathers all errors,
//! so that one attempt reports every one of them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use handover::host_resources::{Binaries, ConsoleKind, Guest, RamError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signalfd::SignalFd;
use spec::{ByteSize, Console, HugePages, Memory, SpecError, Vm};

use super::devices::Devices;
use super::opening::{Ended, Opening};
use super::pty;
use crate::arch::kvm_missing;
use crate::console_socket;
use crate::host::Host;
use crate::open::{cause, open, open_binary};
use crate::placement;

/// What was opened.
#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) binaries: Binaries,
    pub(crate) guest: Guest,
    /// The console, unless it is a socket, which is made later, or there is none.
    pub(crate) console: Option<ConsoleKind>,
    pub(crate) devices: Devices,
}

impl Resources {
    /// Opens everything, or reports everything that is wrong; a signal ends it at any time.
    pub(crate) fn open(
        vm: &Vm,
        host: &Host,
        inherited: BTreeMap<RawFd, OwnedFd>,
        signals: &SignalFd,
    ) -> Result<Result<Self, Vec<SpecError>>, Ended> {
        let begun = Opening::begin(vm).map_err(Ended::Helper)?;
        let mut errors = Vec::new();
        let mut had = |error| errors.push(error);
        let vmm = open_binary("vmm", &host.vmm).map_err(&mut had).ok();
        let null = open_null().map_err(&mut had).ok();
        let kvm = open_kvm(&host.kvm).map_err(&mut had).ok();
        let ram = guest_ram(&vm.memory, host).map_err(&mut had).ok();
        let console = open_console(&vm.console).map_err(&mut had).ok();
        placement::check_affinity(vm, host, &mut errors);
        let mut devices = Devices::open(vm, host, inherited, &mut errors);
        let mut found = begun.finish(signals, &mut errors)?;
        let (kernel, initrd) = (found.kernel.take(), found.initrd.take());
        devices.add(found);
        if !errors.is_empty() {
            return Ok(Err(errors));
        }
        Ok(match (vmm, null, kvm, kernel, ram, console) {
            (Some(vmm), Some(null), Some(kvm), Some(kernel), Some(ram), Some(console)) => {
                Ok(Self {
                    binaries: Binaries {
                        vmm,
                        blk: devices.blk.take(),
                        net: devices.net.take(),
                        input: devices.input.take(),
                        null,
                    },
                    guest: Guest {
                        kvm,
                        kernel,
                        initrd,
                        ram: Some(ram),
                    },
                    console,
                    devices,
                })
            }
            _ => Err(errors),
        })
    }
}

fn open_null() -> Result<File, SpecError> {
    let opened = open(Path::new("/dev/null"), true, true, OFlag::empty());
    opened.map_err(|e| SpecError::new("null", "/dev/null", cause(&e)))
}

fn open_kvm(path: &Path) -> Result<OwnedFd, SpecError> {
    open(path, true, true, OFlag::empty())
        .map(OwnedFd::from)
        .map_err(|e| SpecError::new("kvm", path.display(), kvm_remedy(&e)))
}

pub(super) fn kvm_remedy(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
            kvm_missing(std::env::consts::ARCH).into()
        }
        Some(Errno::EACCES | Errno::EPERM) => format!(
            "{}: join the group that owns it (usermod -aG kvm USER, then log in again)",
            cause(error)
        ),
        _ => cause(error),
    }
}

fn guest_ram(memory: &Memory, host: &Host) -> Result<OwnedFd, SpecError> {
    let size = ByteSize(memory.size_bytes());
    if let Some(total) = host.mem_total_bytes()
        && size.0 > total
    {
        let reason = format!("is more than this host has, {}M", total >> 20);
        return Err(SpecError::new("mem", size, reason));
    }
    if let Some(reason) = not_on_pages(size, page_bytes()) {
        return Err(SpecError::new("mem", size, reason));
    }
    if let Some(reason) = super::starter::is_too_large(size.0) {
        return Err(SpecError::new("mem", size, reason));
    }
    if !matches!(
        memory.huge_pages(),
        HugePages::None | HugePages::Transparent
    ) {
        check_pool(memory, host)?;
    }
    placement::check_node(memory, host)?;
    Guest::fresh_ram(memory).map_err(|e| match &e {
        RamError::Memfd(e) => SpecError::new("mem", size, host::log::chain(e)),
        RamError::Node(node, _) => SpecError::new("host-numa-node", node, host::log::chain(&e)),
    })
}

/// The size of the host's pages.
fn page_bytes() -> u64 {
    let asked = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let bytes = asked.ok().flatten().unwrap_or(4096);
    u64::try_from(bytes).unwrap_or(4096)
}

/// Why KVM would refuse memory of this size on a host with pages of `page` bytes.
fn not_on_pages(size: ByteSize, page: u64) -> Option<String> {
    let refused = !size.0.is_multiple_of(page);
    refused.then(|| {
        format!(
            "must be a multiple of this host's page size, {}",
            ByteSize(page)
        )
    })
}

fn check_pool(memory: &Memory, host: &Host) -> Result<(), SpecError> {
    let pages = memory.huge_pages();
    let error = |reason: String| SpecError::new("hugepages", pages, reason);
    let Some(pool) = host.huge_page_pool(pages) else {
        return Err(error("this host has no pages of that size".into()));
    };
    let needed = memory.size_bytes() / pages.granule_bytes();
    let available = pool.available();
    if needed > available {
        let reason = format!(
            "mem {} takes {needed} pages, {available} are free of {}: write the number needed to {}",
            ByteSize(memory.size_bytes()),
            pool.total,
            host.pool_dir(pages).join("nr_hugepages").display()
        );
        return Err(error(reason));
    }
    Ok(())
}

fn open_console(console: &Console) -> Result<Option<ConsoleKind>, SpecError> {
    match console {
        Console::Stdio | Console::Socket | Console::None => Ok(None),
        Console::SocketAt(path) => console_socket::check(path).map(|()| None),
        Console::Pty => match pty::open_pair() {
            Ok((primary, secondary, path)) => Ok(Some(ConsoleKind::Pty {
                primary,
                secondary,
                path,
            })),
            Err(e) => Err(SpecError::new("console", console, e.desc())),
        },
        Console::File(path) => {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
            match options.open(path) {
                Ok(file) => Ok(Some(ConsoleKind::Fixed(file))),
                Err(e) => Err(SpecError::new("console", console, console_remedy(&e, path))),
            }
        }
    }
}

fn console_remedy(error: &io::Error, path: &Path) -> String {
    let kind = std::fs::metadata(path).map(|found| found.file_type());
    match (error.raw_os_error().map(Errno::from_raw), kind) {
        (Some(Errno::ENXIO), Ok(kind)) if kind.is_fifo() => {
            "is a named pipe without a reader: start its reader first".into()
        }
        (Some(Errno::ENXIO), Ok(kind)) if kind.is_socket() => {
            "is a socket: console=socket=F makes one that clients connect to".into()
        }
        _ => cause(error),
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
