// SPDX-License-Identifier: Apache-2.0
//! What is owed to the host: changes that do not go away with this process. They are written down in
//! the state directory, so that whoever sweeps it can settle them.

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

/// One thing to be undone, each with the name of its tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Debt {
    /// It took packets of so many bytes before.
    Mtu(String, i32),
    /// It was no port of this bridge.
    Port(String, String),
    /// It was down.
    Up(String),
    /// This program is to be run.
    Script(String, PathBuf),
}

/// All that is owed for one VM; settled, the last first, when dropped.
#[derive(Debug)]
pub(crate) struct Debts {
    /// The state directory.
    dir: OwnedFd,
    all: Vec<Debt>,
}

impl Debts {
    /// None so far.
    pub(crate) fn new(dir: impl Into<OwnedFd>) -> Self {
        Self {
            dir: dir.into(),
            all: Vec::new(),
        }
    }

    /// Writes one down.
    pub(super) fn add(&mut self, debt: Debt) -> Result<(), SpecError> {
        self.all.push(debt);
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

impl Drop for Debts {
    fn drop(&mut self) {
        settle_all(&self.all);
    }
}

/// Settles what a dead jailer has left in its state directory.
pub(crate) fn settle(dir: impl AsFd) {
    let mut text = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let read = match openat(&dir, DEBTS, flags, Mode::empty()) {
        Ok(file) => File::from(file).take(LEN_MAX).read_to_end(&mut text),
        Err(Errno::ENOENT) => return,
        Err(e) => Err(e.into()),
    };
    let debts = read.and_then(|_| Ok(serde_json::from_slice::<Vec<Debt>>(&text)?));
    match debts {
        Ok(debts) => settle_all(&debts),
        Err(e) => say(&format!("state-dir {DEBTS:?}: {e}")),
    }
}

fn settle_all(debts: &[Debt]) {
    for debt in debts.iter().rev() {
        if let Err(reason) = settle_one(debt) {
            say(&reason);
        }
    }
}

fn settle_one(debt: &Debt) -> Result<(), String> {
    let told = |outcome: nix::Result<()>, tap: &str, what: &str| match outcome {
        // It is gone, and with it all that was done to it.
        Ok(()) | Err(Errno::ENODEV) => Ok(()),
        Err(e) => Err(format!("net.tap {tap:?}: cannot {what}: {}", e.desc())),
    };
    match debt {
        Debt::Mtu(tap, mtu) => {
            let set = interface(tap).and_then(|interface| interface.set_mtu(*mtu));
            told(set, tap, "give it its MTU back")
        }
        Debt::Port(tap, bridge) => {
            let remove = interface(tap).and_then(|port| {
                let index = port.index()?;
                match interface(bridge)?.remove_port(index) {
                    // It has left already.
                    Err(Errno::EINVAL) => Ok(()),
                    outcome => outcome,
                }
            });
            told(remove, tap, "take it from its bridge")
        }
        Debt::Up(tap) => {
            let set = interface(tap).and_then(|interface| interface.set_up(false));
            told(set, tap, "take it down")
        }
        Debt::Script(tap, program) => script::run(program, tap)
            .map_err(|reason| format!("net.down {:?}: {reason}", program.display().to_string())),
    }
}
