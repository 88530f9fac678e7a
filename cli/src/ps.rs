// SPDX-License-Identifier: Apache-2.0
//! `bulkhead ps`: all VMs of this user.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use host::clock::monotonic_ns;
use serde::Serialize;
use spec::api::DeviceInfo;
use spec::{ByteSize, Ended, Reason, VmName};

use crate::client::{self, ClientError};
use crate::ended;
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
    #[serde(flatten)]
    ended: Option<Over>,
}

/// What is known of a VM that has ended.
#[derive(Debug, Serialize)]
struct Over {
    reason: Reason,
    status: Option<u8>,
    detail: String,
    ended_unix_s: u64,
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

/// Lists the VMs; with `all`, also those that have ended.
pub(crate) fn ps(base: &Path, all: bool, json: bool) -> Result<(), Error> {
    let mut entries: Vec<_> = crate::state::names(base)?
        .into_iter()
        .filter_map(|name| entry(base, name))
        .collect();
    if all {
        // After the others, some of which were dead and are kept as ended now.
        let ended = ended::all(base).into_iter();
        let ended = ended.filter(|ended| entries.iter().all(|entry| entry.name != ended.name));
        let ended: Vec<_> = ended.map(over).collect();
        entries.extend(ended);
    }
    match json {
        true => output::print_json(&entries),
        false => output::print(&describe(&entries, all)),
    }
}

fn over(ended: Ended) -> Entry {
    Entry {
        name: ended.name,
        state: "ended",
        alive: None,
        ended: Some(Over {
            reason: ended.reason,
            status: ended.status,
            detail: ended.detail,
            ended_unix_s: ended.ended_unix_s,
        }),
    }
}

/// A VM; `None` if it has ended meanwhile, or was dead and is now removed.
fn entry(base: &Path, name: VmName) -> Option<Entry> {
    let dead = |name, state| Entry {
        name,
        state,
        alive: None,
        ended: None,
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
            ended: None,
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

fn describe(entries: &[Entry], all: bool) -> String {
    let mut header = vec!["NAME", "STATE", "CPUS", "MEM", "PID", "AGE"];
    if all {
        header.push("ENDED BY");
    }
    let mut rows = vec![header.into_iter().map(String::from).collect()];
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
        if let Some(ended) = &entry.ended {
            row.extend(["-"; 4].map(String::from));
            row.push(ended.reason.to_string());
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
        let text = describe(&entries, false);
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
