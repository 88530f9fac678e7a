// SPDX-License-Identifier: Apache-2.0
//! VMs that have ended: what their jailers, or a sweep, have kept of them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ::host::clock::boot_id;
use serde::Serialize;
use spec::state::{ENDED, ENDED_MAX, ENDED_MAX_BYTES};
use spec::{Ended, Reason, VmName};

use crate::table::align;

/// A VM that has ended, as JSON shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    name: VmName,
    state: &'static str,
    reason: Reason,
    status: Option<u8>,
    detail: String,
    started_unix_s: Option<u64>,
    ended_unix_s: u64,
}

impl From<Ended> for Shown {
    fn from(ended: Ended) -> Self {
        Self {
            name: ended.name,
            state: "ended",
            reason: ended.reason,
            status: ended.status,
            detail: ended.detail,
            started_unix_s: ended.started_unix_s,
            ended_unix_s: ended.ended_unix_s,
        }
    }
}

/// How a VM of this name has ended, if none runs and that is still known.
pub(crate) fn find(base: &Path, vm: &VmName) -> Option<Ended> {
    read(&path(base, vm)).filter(|ended| ended.name == *vm)
}

/// The same, which is forgotten now.
pub(crate) fn take(base: &Path, vm: &VmName) -> Option<Ended> {
    let ended = find(base, vm);
    if ended.is_some() {
        let _ = fs::remove_file(path(base, vm));
    }
    ended
}

/// All VMs that have ended, by name.
pub(crate) fn all(base: &Path) -> Vec<Ended> {
    let listing = fs::read_dir(base.join(ENDED)).into_iter().flatten();
    let names = listing.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse().ok()
    });
    let found = names.filter_map(|name: VmName| find(base, &name));
    let mut found: Vec<_> = found.take(ENDED_MAX).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn path(base: &Path, vm: &VmName) -> PathBuf {
    base.join(ENDED).join(vm.as_str())
}

fn read(path: &Path) -> Option<Ended> {
    let mut text = Vec::new();
    let limit = ENDED_MAX_BYTES as u64 + 1;
    let opened = File::open(path).ok()?;
    opened.take(limit).read_to_end(&mut text).ok()?;
    Ended::from_json(&text, &boot_id())
}

/// Why it ended, in one line.
pub(crate) fn line(ended: &Ended) -> String {
    let separator = if ended.detail.is_empty() { "" } else { ": " };
    let line = format!("{}{separator}{}", ended.reason, ended.detail);
    format!("{}\n", ::host::output::harmless(&line))
}

/// All that is known of it, as a table.
pub(crate) fn describe(ended: &Ended) -> String {
    let time = |unix_s: u64| {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(unix_s));
        let time = time.unwrap_or(UNIX_EPOCH);
        humantime::format_rfc3339_seconds(time).to_string()
    };
    let fields = [
        ("name", Some(ended.name.to_string())),
        ("state", Some("ended".into())),
        ("reason", Some(ended.reason.to_string())),
        ("status", ended.status.map(|status| status.to_string())),
        ("detail", Some(::host::output::harmless(&ended.detail))),
        ("started", ended.started_unix_s.map(time)),
        ("ended", Some(time(ended.ended_unix_s))),
    ];
    let rows = fields.into_iter().filter_map(|(field, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some(vec![field.to_owned(), value])
    });
    align(&rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(name: &str) -> Ended {
        Ended {
            name: name.parse().unwrap(),
            reason: Reason::Panic,
            status: Some(3),
            detail: "the guest's kernel panicked".into(),
            started_unix_s: Some(0),
            ended_unix_s: 61,
            boot: boot_id(),
        }
    }

    #[test]
    fn records_of_this_boot_are_found_until_they_are_taken() {
        let base = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &[u8]| {
            fs::create_dir_all(base.path().join(ENDED)).unwrap();
            fs::write(base.path().join(ENDED).join(file), text).unwrap();
        };
        let vm: VmName = "b".parse().unwrap();
        assert!(all(base.path()).is_empty() && find(base.path(), &vm).is_none());
        for name in ["b", "a"] {
            put(name, &ended(name).to_json());
        }
        let earlier = Ended {
            boot: "earlier".into(),
            ..ended("c")
        };
        put("c", &earlier.to_json());
        put("d", b"{");
        put("e", &ended("another").to_json());
        let names: Vec<_> = all(base.path()).into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["a", "b"].map(|name| name.parse().unwrap()));
        assert_eq!(take(base.path(), &vm), Some(ended("b")));
        assert_eq!(take(base.path(), &vm), None);
    }

    #[test]
    fn description_has_all_that_is_known_and_no_more() {
        let text = describe(&ended("web"));
        for line in [
            "reason   panic",
            "status   3",
            "ended    1970-01-01T00:01:01Z",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        let lost = Ended {
            status: None,
            started_unix_s: None,
            detail: String::new(),
            ..ended("web")
        };
        let text = describe(&lost);
        let unknown = ["status", "started", "detail"];
        assert!(unknown.iter().all(|field| !text.contains(field)), "{text}");
        assert_eq!(line(&lost), "panic\n");
        assert_eq!(line(&ended("web")), "panic: the guest's kernel panicked\n");
    }
}
