// SPDX-License-Identifier: Apache-2.0
//! `bulkhead ps`: all VMs of this user.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use host::clock::monotonic_ns;
use serde::Serialize;
use spec::api::DeviceInfo;
use spec::{ByteSize, VmName};

use crate::client::{self, ClientError};
use crate::error::Error;
use crate::inspect::state;
use crate::jailer;
use crate::output;
use crate::table::{align, span};

/// How long a jailer may take from making its directory to locking it.
const STARTING: Duration = Duration::from_secs(5);

/// One VM of the list.
#[derive(Debug, Serialize)]
struct Entry {
    name: VmName,
    /// As in the API; or `dead`, or `unknown` if it does not answer.
    state: &'static str,
    #[serde(flatten)]
    alive: Option<Alive>,
}

/// What only a running VM reports.
#[derive(Debug, Serialize)]
struct Alive {
    pid: i32,
    cpus: u32,
    mem: ByteSize,
    /// How long its jailer has been running.
    age_s: u64,
    reboots: u32,
    devices: Vec<DeviceInfo>,
}

/// Lists the VMs.
pub(crate) fn ps(base: &Path, json: bool) -> Result<(), Error> {
    let entries: Vec<_> = crate::state::names(base)?
        .into_iter()
        .filter_map(|name| entry(base, name))
        .collect();
    let text = match json {
        true => {
            let text = serde_json::to_string_pretty(&entries);
            text.map_err(|e| Error::output(e.into()))? + "\n"
        }
        false => describe(&entries),
    };
    output::print(&text)
}

/// A VM; `None` if it has ended meanwhile, or was dead and is now removed.
fn entry(base: &Path, name: VmName) -> Option<Entry> {
    let dead = |name, state| Entry {
        name,
        state,
        alive: None,
    };
    match client::info(base, &name) {
        Ok(info) => Some(Entry {
            name,
            state: state(info.state),
            alive: info.processes.first().map(|jailer| Alive {
                pid: jailer.pid,
                cpus: info.spec.cpus,
                mem: info.spec.mem,
                age_s: monotonic_ns().saturating_sub(jailer.spawned_ns) / 1_000_000_000,
                reboots: info.reboots,
                devices: info.devices,
            }),
        }),
        Err(ClientError::Unknown(..)) if !base.join(name.as_str()).exists() => None,
        Err(ClientError::Unknown(..)) if !is_abandoned(&base.join(name.as_str())) => {
            Some(dead(name, "starting"))
        }
        Err(ClientError::Ending(_)) => Some(dead(name, "ending")),
        Err(ClientError::Dead { .. }) => match jailer::sweep(base, &name) {
            true => None,
            false => Some(dead(name, "dead")),
        },
        // Without a socket, it may never have been a VM's directory.
        Err(ClientError::Unknown(..)) => {
            jailer::sweep(base, &name);
            None
        }
        Err(_) => Some(dead(name, "unknown")),
    }
}

/// Whether the jailer that made a state directory without a socket is gone. Leaves a new directory
/// alone, so that our test of the lock cannot disturb its jailer.
fn is_abandoned(dir: &Path) -> bool {
    let changed = fs::metadata(dir).and_then(|found| found.modified());
    let age = changed.map(|then| SystemTime::now().duration_since(then).unwrap_or_default());
    age.is_ok_and(|age| age >= STARTING) && !client::is_locked(dir)
}

fn describe(entries: &[Entry]) -> String {
    let header = ["NAME", "STATE", "CPUS", "MEM", "PID", "AGE"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for entry in entries {
        let mut row = vec![entry.name.to_string(), entry.state.to_string()];
        if let Some(alive) = &entry.alive {
            row.extend([
                alive.cpus.to_string(),
                alive.mem.to_string(),
                alive.pid.to_string(),
                span(alive.age_s),
            ]);
        }
        rows.push(row);
    }
    align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::names;
    use nix::fcntl::{Flock, FlockArg};
    use std::fs::File;

    fn listed(base: &Path) -> Vec<Entry> {
        let names = names(base).unwrap();
        names
            .into_iter()
            .filter_map(|name| entry(base, name))
            .collect()
    }

    #[test]
    fn list_has_the_dead_and_leaves_out_what_is_no_vm() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".hidden"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        let socket = dir.path().join("a").join(spec::state::API_SOCKET);
        drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
        let entries = listed(dir.path());
        let text = describe(&entries);
        assert_eq!(text.lines().nth(1), Some("a     dead"));
        assert_eq!(text.lines().nth(2), Some("b     starting"));
        assert_eq!(entries.len(), 2);
        let json = serde_json::to_value(&entries).unwrap();
        assert_eq!(json[0], serde_json::json!({"name": "a", "state": "dead"}));
    }

    #[test]
    fn directory_without_a_socket_is_starting_while_somebody_holds_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let vm = dir.path().join("vm");
        fs::create_dir(&vm).unwrap();
        let opened = File::open(&vm).unwrap();
        opened
            .set_modified(SystemTime::now() - 2 * STARTING)
            .unwrap();
        let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(listed(dir.path())[0].state, "starting");
        drop(lock);
        assert!(is_abandoned(&vm));
        assert_eq!(listed(dir.path()).len(), 0);
    }
}
