// SPDX-License-Identifier: Apache-2.0
//! A line of a VM's log, in either format: written by the VM's processes, read by `bulkhead logs` and by
//! the supervisor, which shows the last lines of a process that died.
//!
//! A reader trusts no line: a process may be compromised, and other programs write to the log, too.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::output::harmless;

/// How the log calls levels.
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// A line of the log, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written, RFC 3339; none for a line that is not of our log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The same in microseconds of CLOCK_MONOTONIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monotonic_us: Option<u64>,
    /// The process: jailer, supervisor, vmm, blk, net, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// ERROR, WARN, INFO, DEBUG or TRACE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// What it says; of a line that was written as text, also its fields.
    pub message: String,
    /// What it is about: `vm_id`, `device_id` and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

impl Entry {
    /// Parses a line of either format; `now_ns` (CLOCK_MONOTONIC) and `now` are the same moment, for the
    /// time of a line of text. A line of neither is a message.
    pub fn of(line: &str, now_ns: u64, now: SystemTime) -> Self {
        let parsed = Self::from_json(line).or_else(|| Self::from_text(line, now_ns, now));
        parsed.unwrap_or_else(|| Self {
            message: line.into(),
            ..Self::default()
        })
    }

    /// Parses an object that a process has written.
    fn from_json(line: &str) -> Option<Self> {
        let entry: Self = line
            .starts_with('{')
            .then(|| serde_json::from_str(line).ok())??;
        entry.is_ours().then_some(entry)
    }

    fn is_ours(&self) -> bool {
        let level = self.level.as_deref().unwrap_or_default();
        self.monotonic_us.is_some() && self.process.is_some() && LEVELS.contains(&level)
    }

    /// Parses `[SECONDS.MICROS] PROCESS LEVEL MESSAGE`.
    fn from_text(line: &str, now_ns: u64, now: SystemTime) -> Option<Self> {
        let (stamp, rest) = line.strip_prefix('[')?.split_once("] ")?;
        let (seconds, micros) = stamp.trim_start().split_once('.')?;
        let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
        let us = seconds.checked_mul(1_000_000)?.checked_add(micros)?;
        let (process, rest) = rest.split_once(' ')?;
        let (level, message) = rest.split_once(' ').unwrap_or((rest, ""));
        let age = Duration::from_nanos(now_ns.saturating_sub(us.checked_mul(1000)?));
        let entry = Self {
            time: Some(rfc3339(now.checked_sub(age)?)),
            monotonic_us: Some(us),
            process: Some(process.into()),
            level: Some(level.into()),
            message: message.into(),
            fields: BTreeMap::new(),
        };
        entry.is_ours().then_some(entry)
    }

    /// The line for people: `[SECONDS.MICROS] PROCESS LEVEL MESSAGE KEY=VALUE…`, without what a terminal
    /// would interpret.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(160);
        if let (Some(us), Some(process), Some(level)) =
            (self.monotonic_us, &self.process, &self.level)
        {
            let (second, micros) = (us / 1_000_000, us % 1_000_000);
            let _ = write!(text, "[{second:5}.{micros:06}] {process} {level} ");
        }
        text.push_str(&self.message);
        for (key, value) in &self.fields {
            let _ = write!(text, " {key}={value}");
        }
        harmless(&text)
    }

    /// The line for programs, an object of JSON in which control characters are escaped.
    pub fn to_json(&self) -> String {
        // Cannot fail: all fields are text and numbers.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A moment as text, with microseconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

/// A line of the log for people: of an object, its text.
pub fn as_text(line: &str) -> Cow<'_, str> {
    match Entry::from_json(line) {
        Some(entry) => Cow::Owned(entry.to_text()),
        None => Cow::Borrowed(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    #[test]
    fn line_of_ours_is_parted_and_another_is_a_message() {
        let line = "[   12.345678] vmm WARN it is slow vm_id=web";
        let entry = Entry::of(line, 22_345_678_000, now());
        let wanted = Entry {
            time: Some("1970-01-01T00:16:30.000000Z".into()),
            monotonic_us: Some(12_345_678),
            process: Some("vmm".into()),
            level: Some("WARN".into()),
            message: "it is slow vm_id=web".into(),
            fields: BTreeMap::new(),
        };
        assert_eq!(entry, wanted);
        assert_eq!((entry.to_text().as_str(), &*as_text(line)), (line, line));
        for line in [
            "",
            "panicked at x",
            "[ 1.000000] vmm shouts x",
            "[1.x] a INFO b",
            "{",
            "{}",
            r#"{"message":"another program's"}"#,
            r#"{"message":"x","process":"vmm","level":"LOUD","monotonic_us":1}"#,
        ] {
            let entry = Entry::of(line, 0, now());
            assert_eq!((entry.level, entry.message.as_str()), (None, line));
            assert_eq!(as_text(line), line);
        }
    }

    #[test]
    fn object_reads_back_and_is_shown_as_text_without_what_a_terminal_obeys() {
        let line = r#"{"time":"t","monotonic_us":12345678,"process":"blk","level":"INFO",
            "message":"a \u001b[2J\n\"b\"","fields":{"vm_id":"web","device_id":"disk0"}}"#;
        let entry = Entry::of(line, 0, now());
        assert_eq!(
            entry.to_text(),
            "[   12.345678] blk INFO a  [2J \"b\" device_id=disk0 vm_id=web"
        );
        assert_eq!(as_text(line), entry.to_text());
        let again = entry.to_json();
        assert!(!again.contains(char::is_control), "{again}");
        assert_eq!(Entry::of(&again, 0, now()), entry);
    }
}
