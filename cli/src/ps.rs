// SPDX-License-Identifier: Apache-2.0
//! `bulkhead ps`: all VMs of this user.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use spec::{ByteSize, VmName};

use crate::client::{self, ClientError};
use crate::error::Error;
use crate::inspect::{age, now_ns, state};
use crate::jailer;
use crate::output;
use crate::table::align;

/// One VM of the list.
#[derive(Debug, Serialize)]
struct Entry {
    name: VmName,
    /// As in the API; or `dead`, or `unknown` if it does not answer.
    state: &'static str,
    #[serde(flatten)]
    alive: Option<Alive>,
}

/// What only a living VM can tell.
#[derive(Debug, Serialize)]
struct Alive {
    pid: i32,
    cpus: u32,
    mem: ByteSize,
    #[serde(skip)]
    age: String,
}

/// Lists the VMs.
pub(crate) fn ps(base: &Path, json: bool) -> Result<(), Error> {
    let entries: Vec<_> = names(base)?
        .into_iter()
        .filter_map(|name| entry(base, name))
        .collect();
    let text = match json {
        true => {
            let text = serde_json::to_string_pretty(&entries);
            text.map_err(|e| Error::Output(e.into()))? + "\n"
        }
        false => describe(&entries),
    };
    output::print(&text)
}

/// The names of all state directories, in order.
fn names(base: &Path) -> Result<Vec<VmName>, Error> {
    let failed = |e| ClientError::Io(base.display().to_string(), e);
    let listing = match fs::read_dir(base) {
        Ok(listing) => listing,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e).into()),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(failed)?;
        // What has no VM's name, or is no directory, is somebody else's.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(name) = entry.file_name().to_str()
            && let Ok(name) = name.parse()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A VM, unless it ended while we looked, or was dead and could be swept.
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
                age: age(jailer, now_ns()),
            }),
        }),
        Err(ClientError::Dead { .. }) => match jailer::sweep(base, &name) {
            true => None,
            false => Some(dead(name, "dead")),
        },
        Err(ClientError::Unknown(..)) if !base.join(name.as_str()).exists() => None,
        Err(ClientError::Unknown(..)) => Some(dead(name, "starting")),
        Err(_) => Some(dead(name, "unknown")),
    }
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
                alive.age.clone(),
            ]);
        }
        rows.push(row);
    }
    align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_has_the_dead_and_leaves_out_what_is_no_vm() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".hidden"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        let socket = dir.path().join("a").join(spec::state::API_SOCKET);
        drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
        let names = names(dir.path()).unwrap();
        let entries: Vec<_> = names
            .into_iter()
            .filter_map(|name| entry(dir.path(), name))
            .collect();
        let text = describe(&entries);
        assert_eq!(text.lines().nth(1), Some("a     dead"));
        assert_eq!(text.lines().nth(2), Some("b     starting"));
        assert_eq!(entries.len(), 2);
        let json = serde_json::to_value(&entries).unwrap();
        assert_eq!(json[0], serde_json::json!({"name": "a", "state": "dead"}));
    }

    #[test]
    fn list_of_a_directory_that_does_not_exist_is_empty() {
        assert!(names(Path::new("/nonexistent")).unwrap().is_empty());
    }
}
