// SPDX-License-Identifier: Apache-2.0
//! Taps: opens or makes them, brings them up and makes them ports of bridges. Everything that is to
//! be undone after the VM's end is recorded, so that a sweep can undo it if this process is killed.
//!
//! A tap that is made here exists as long as a descriptor of it is open, and leaves its bridge by
//! itself. What is left to do after that, and every change to a tap that existed before, is a
//! [`UndoEntry`], written to the state directory before the change is made.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

use host::tap::{self, TapError};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use spec::{NetKind, SpecError, Tap, TapName, TapSource, Vm};

mod inherited;
mod interface;
mod link;
mod script;
mod undo_log;

use interface::Interface;
pub(crate) use undo_log::{UndoEntry, UndoLog, undo};

use handover::host_resources::TapParts;

/// A tap that is open and has not been changed yet.
#[derive(Debug)]
pub(crate) struct OpenTap {
    /// Its queues.
    queues: Vec<OwnedFd>,
    /// Whether it can do UDP segmentation.
    uso: bool,
    origin: Origin,
}

/// How the jailer got a tap.
#[derive(Debug)]
enum Origin {
    /// It opened the tap, and may change it.
    Opened {
        name: TapName,
        /// Whether the tap existed before.
        existed: bool,
    },
    /// It inherited the tap.
    Inherited {
        /// Keeps other VMs of this user from the tap.
        _lock: Option<File>,
    },
}

/// Keeps the taps, and undoes what was done for them when dropped.
#[derive(Debug)]
pub(crate) struct TapSetup {
    // Dropped first: undoing needs the taps to exist.
    undo_log: UndoLog,
    _held: Vec<OwnedFd>,
    _inherited: Vec<Origin>,
}

/// Opens the taps of a VM, in order; adds everything that is wrong with them to `errors`.
pub(crate) fn open_all(
    vm: &Vm,
    mut inherited: BTreeMap<RawFd, OwnedFd>,
    errors: &mut Vec<SpecError>,
) -> Vec<OpenTap> {
    let mut open = Vec::new();
    for tap in taps(vm) {
        for (field, script) in [("net.up", &tap.up), ("net.down", &tap.down)] {
            errors.extend(
                script
                    .as_deref()
                    .and_then(|path| check_script(field, path).err()),
            );
        }
        errors.extend(check_bridge(tap).err());
        let opened = match &tap.source {
            TapSource::Named(name) => open_one(name, tap.pairs),
            TapSource::Inherited(fds) => inherited::take(fds, &mut inherited),
        };
        match opened {
            Ok(tap) => open.push(tap),
            Err(error) => errors.push(error),
        }
    }
    open
}

fn taps(vm: &Vm) -> impl Iterator<Item = &Tap> {
    vm.nets.iter().filter_map(|net| match &net.kind {
        NetKind::Tap(tap) => Some(tap),
        NetKind::User(_) => None,
    })
}

fn open_one(name: &TapName, pairs: u16) -> Result<OpenTap, SpecError> {
    let odd = |reason: String| SpecError::new("net.tap", name, reason);
    let interface = interface(name.as_str()).map_err(|e| odd(e.desc().into()))?;
    let existed = match interface.index() {
        Ok(_) => true,
        Err(Errno::ENODEV) => false,
        Err(e) => return Err(odd(e.desc().into())),
    };
    let queues = tap::open(name.as_str(), pairs);
    let queues = queues.map_err(|error| odd(remedy(&error, (name, pairs), existed)))?;
    let uso = queues
        .first()
        .is_some_and(|queue| tap::has_uso(queue.as_fd()));
    Ok(OpenTap {
        queues,
        uso,
        origin: Origin::Opened {
            name: name.clone(),
            existed,
        },
    })
}

fn remedy(error: &TapError, (name, pairs): (&TapName, u16), existed: bool) -> String {
    match error {
        TapError::Permission if existed => format!(
            "{error}: have root give it to you (ip tuntap add {name} mode tap user NAME), or be root"
        ),
        TapError::Permission => format!(
            "does not exist, and only root can make it: ip tuntap add {name} mode tap user NAME"
        ),
        TapError::SingleQueue => format!(
            "{error}: make it so (ip tuntap add {name} mode tap multi_queue), or leave queues={pairs} out"
        ),
        TapError::MultiQueue => format!("{error}: say queues=2 or more"),
        TapError::Device(source) if source.kind() == std::io::ErrorKind::NotFound => {
            format!("{}: load the module tun", host::log::chain(error))
        }
        _ => host::log::chain(error),
    }
}

fn interface(name: &str) -> nix::Result<Interface<'_>> {
    Interface::new(name)
}

fn check_bridge(tap: &Tap) -> Result<(), SpecError> {
    let Some(bridge) = &tap.bridge else {
        return Ok(());
    };
    let ports = interface(bridge.as_str()).and_then(|interface| {
        interface.index()?;
        interface.ports()
    });
    let reason = match ports {
        Ok(_) => return Ok(()),
        Err(Errno::ENODEV) => {
            format!("does not exist: ip link add {bridge} type bridge, ip link set {bridge} up")
        }
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL) => "is not a bridge".into(),
        Err(e) => e.desc().into(),
    };
    Err(SpecError::new("net.bridge", bridge, reason))
}

fn check_script(field: &'static str, path: &Path) -> Result<(), SpecError> {
    let odd = |reason: &str| Err(SpecError::new(field, path.display(), reason));
    match access(path, AccessFlags::X_OK) {
        Ok(()) if path.is_dir() => odd("is a directory, not a program"),
        Ok(()) => Ok(()),
        Err(Errno::EACCES) => odd("is not executable: chmod +x it"),
        Err(e) => odd(e.desc()),
    }
}

impl TapSetup {
    /// Sets up the taps that were opened. If one cannot be set up as the spec asks, undoes all that
    /// was done.
    pub(crate) fn set_up(
        vm: &Vm,
        open: Vec<OpenTap>,
        undo_log: UndoLog,
    ) -> Result<(Self, Vec<TapParts>), SpecError> {
        let mut tap_setup = Self {
            undo_log,
            _held: Vec::new(),
            _inherited: Vec::new(),
        };
        let mut parts = Vec::new();
        for (spec, tap) in taps(vm).zip(open) {
            match tap.origin {
                Origin::Opened { name, existed } => {
                    let held = tap.queues.first().map(OwnedFd::try_clone).transpose();
                    let held = held.map_err(|e| SpecError::new("net.tap", &name, e))?;
                    tap_setup._held.extend(held);
                    tap_setup.hook_up(&name, spec, existed)?;
                }
                inherited => tap_setup._inherited.push(inherited),
            }
            parts.push(TapParts {
                queues: tap.queues,
                uso: tap.uso,
            });
        }
        Ok((tap_setup, parts))
    }

    fn hook_up(&mut self, name: &TapName, tap: &Tap, existed: bool) -> Result<(), SpecError> {
        let odd = |field, value: &dyn std::fmt::Display, errno: Errno| {
            let remedy = match errno {
                Errno::EPERM => ": only root can do this: do it beforehand, and leave it out here",
                _ => "",
            };
            SpecError::new(field, value, format!("{}{remedy}", errno.desc()))
        };
        let on_tap = |errno| odd("net.tap", name, errno);
        let interface = interface(name.as_str()).map_err(on_tap)?;
        let index = interface.index().map_err(on_tap)?;
        if let Some(mtu) = tap.mtu {
            let before = interface.mtu().map_err(on_tap)?;
            if before != i32::from(mtu) {
                self.record(existed.then(|| UndoEntry::Mtu(name.to_string(), before)))?;
                let set = interface.set_mtu(i32::from(mtu));
                set.map_err(|errno| odd("net.mtu", &mtu, errno))?;
            }
        }
        if let Some(named) = &tap.bridge {
            let at_fault = |errno| match errno {
                Errno::EBUSY => SpecError::new("net.tap", name, "is a port of another bridge"),
                errno => odd("net.bridge", named, errno),
            };
            let bridge = self::interface(named.as_str()).map_err(at_fault)?;
            if !bridge.ports().map_err(at_fault)?.contains(&index) {
                let undo_entry = || UndoEntry::Port(name.to_string(), named.to_string());
                self.record(existed.then(undo_entry))?;
                bridge.add_port(index).map_err(at_fault)?;
            }
        }
        if !interface.is_up().map_err(on_tap)? {
            self.record(existed.then(|| UndoEntry::Up(name.to_string())))?;
            interface.set_up(true).map_err(|errno| match errno {
                Errno::EPERM => {
                    SpecError::new("net.tap", name, format!("is down: ip link set {name} up"))
                }
                errno => on_tap(errno),
            })?;
        }
        let owed = |path| UndoEntry::Script(name.to_string(), path);
        self.record(tap.down.clone().map(owed))?;
        match &tap.up {
            Some(up) => script::run(up, name.as_str())
                .map_err(|reason| SpecError::new("net.up", up.display(), reason)),
            None => Ok(()),
        }
    }

    fn record(&mut self, undo_entry: Option<UndoEntry>) -> Result<(), SpecError> {
        match undo_entry {
            Some(undo_entry) => self.undo_log.add(undo_entry),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
