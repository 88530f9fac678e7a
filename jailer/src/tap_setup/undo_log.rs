// SPDX-License-Identifier: Apache-2.0
//! The undo log: changes to the host that outlive this process. Each is written to the state
//! directory before it is made, so that a sweep can undo it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use handover::outcome::say;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use spec::SpecError;
use spec::state::{DEBTS, DEBTS_FRESH};

use super::{interface, script};

/// The longest list that is read, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// One change to undo; each begins with the name of its tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UndoEntry {
    /// The tap had this MTU before.
    Mtu(String, i32),
    /// The tap was no port of this bridge.
    Port(String, String),
    /// The tap was down.
    Up(String),
    /// This program must be run.
    Script(String, PathBuf),
}

/// All that must be undone for one VM; undone when dropped, the last entry first.
#[derive(Debug)]
pub(crate) struct UndoLog {
    /// The state directory.
    dir: OwnedFd,
    all: Vec<UndoEntry>,
}

impl UndoLog {
    /// An empty log.
    pub(crate) fn new(dir: impl Into<OwnedFd>) -> Self {
        Self {
            dir: dir.into(),
            all: Vec::new(),
        }
    }

    /// Adds an entry and writes the log to disk.
    pub(super) fn add(&mut self, undo_entry: UndoEntry) -> Result<(), SpecError> {
        self.all.push(undo_entry);
        let written = self.write();
        written.map_err(|e| SpecError::new("state-dir", DEBTS, e))
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.all)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fresh = openat(&self.dir, DEBTS_FRESH, flags, mode)?;
        File::from(fresh).write_all(&text)?;
        renameat(&self.dir, DEBTS_FRESH, &self.dir, DEBTS)?;
        Ok(())
    }
}

impl Drop for UndoLog {
    fn drop(&mut self) {
        undo_all(&self.all);
    }
}

/// Undoes what a dead jailer recorded in its state directory.
pub(crate) fn undo(dir: impl AsFd) {
    let mut text = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let read = match openat(&dir, DEBTS, flags, Mode::empty()) {
        Ok(file) => File::from(file).take(LEN_MAX).read_to_end(&mut text),
        Err(Errno::ENOENT) => return,
        Err(e) => Err(e.into()),
    };
    let undo_log = read.and_then(|_| Ok(serde_json::from_slice::<Vec<UndoEntry>>(&text)?));
    match undo_log {
        Ok(undo_log) => undo_all(&undo_log),
        Err(e) => say(&format!("state-dir {DEBTS:?}: {e}")),
    }
}

fn undo_all(undo_log: &[UndoEntry]) {
    for undo_entry in undo_log.iter().rev() {
        if let Err(reason) = undo_one(undo_entry) {
            say(&reason);
        }
    }
}

fn undo_one(undo_entry: &UndoEntry) -> Result<(), String> {
    let told = |outcome: nix::Result<()>, tap: &str, what: &str| match outcome {
        // The tap is gone, and every change to it.
        Ok(()) | Err(Errno::ENODEV) => Ok(()),
        Err(e) => Err(format!("net.tap {tap:?}: cannot {what}: {}", e.desc())),
    };
    match undo_entry {
        UndoEntry::Mtu(tap, mtu) => {
            let set = interface(tap).and_then(|interface| interface.set_mtu(*mtu));
            told(set, tap, "give it its MTU back")
        }
        UndoEntry::Port(tap, bridge) => {
            let remove = interface(tap).and_then(|port| {
                let index = port.index()?;
                match interface(bridge)?.remove_port(index) {
                    // The tap is no port of the bridge any more.
                    Err(Errno::EINVAL) => Ok(()),
                    outcome => outcome,
                }
            });
            told(remove, tap, "take it from its bridge")
        }
        UndoEntry::Up(tap) => {
            let set = interface(tap).and_then(|interface| interface.set_up(false));
            told(set, tap, "take it down")
        }
        UndoEntry::Script(tap, program) => script::run(program, tap)
            .map_err(|reason| format!("net.down {:?}: {reason}", program.display().to_string())),
    }
}
