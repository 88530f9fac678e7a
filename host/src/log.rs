// SPDX-License-Identifier: Apache-2.0
//! The log: lines on file descriptor 2, one write each, with structured fields behind the message.
//!
//! `[  12.345678] vmm WARN the message vm_id=a device_id=disk0`
//!
//! or, if the VM's log is one of JSON, an object with the same ([`entry::Entry`]).
//!
//! Each call site may write ten lines a second, so that a guest or a backend cannot fill the host's
//! disk with lines that it triggers. The first line above the limit becomes a notice that names the
//! call site; the next line from there says how many were dropped (`dropped=N`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::SystemTime;

use ipc::log_format::LogFormat;
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::clock::monotonic_ns;

pub mod entry;

use entry::Entry;

/// The limit of lines per call site and second.
const LINES_PER_SECOND: u32 = 10;

/// A call site: file and line. There are as many as the program has log macros, so budgets are bounded.
type Site = (&'static str, u32);

#[derive(Debug)]
struct Logger {
    role: &'static str,
    vm_id: String,
    format: LogFormat,
    /// The log file, if lines do not go to file descriptor 2.
    file: Option<File>,
    budgets: Mutex<BTreeMap<Site, Budget>>,
}

/// What one call site has written in the current second.
#[derive(Debug, Clone, Copy, Default)]
struct Budget {
    second: u64,
    lines: u32,
    /// Lines dropped since the last one that was written.
    dropped: u32,
}

/// What to do with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permit {
    /// Write it, with the number of lines dropped before it.
    Write {
        dropped: u32,
    },
    /// The first line above the limit: write a notice instead.
    Notice,
    Drop,
}

impl Budget {
    fn take(&mut self, second: u64) -> Permit {
        if self.second != second {
            (self.second, self.lines) = (second, 0);
        }
        if self.lines < LINES_PER_SECOND {
            self.lines += 1;
            let dropped = std::mem::take(&mut self.dropped);
            return Permit::Write { dropped };
        }
        self.dropped = self.dropped.saturating_add(1);
        match self.lines == LINES_PER_SECOND {
            true => {
                self.lines += 1;
                Permit::Notice
            }
            false => Permit::Drop,
        }
    }
}

/// Logs this process to file descriptor 2. Only the first call has an effect.
pub fn init(role: &'static str, vm_id: &str, format: LogFormat) {
    start(role, vm_id, format, None);
}

/// As [`init`], to a file opened for appending: for a process whose file descriptor 2 belongs to
/// the user.
pub fn init_to(file: File, role: &'static str, vm_id: &str, format: LogFormat) {
    start(role, vm_id, format, Some(file));
}

fn start(role: &'static str, vm_id: &str, format: LogFormat, file: Option<File>) {
    let logger = Logger {
        role,
        vm_id: vm_id.to_string(),
        format,
        file,
        budgets: Mutex::default(),
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Collects the structured fields of a record, in order.
#[derive(Debug, Default)]
struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

impl Logger {
    /// What to do with a line from this place in the code.
    fn permit(&self, site: Site, second: u64) -> Permit {
        match self.budgets.lock() {
            Ok(mut budgets) => budgets.entry(site).or_default().take(second),
            Err(_) => Permit::Drop,
        }
    }

    /// A line, with its end.
    fn line(&self, entry: Entry, mut fields: Fields) -> String {
        if !self.vm_id.is_empty() {
            fields.0.push(("vm_id".into(), self.vm_id.clone()));
        }
        let mut line = match self.format {
            LogFormat::Json => Entry {
                time: Some(entry::rfc3339(SystemTime::now())),
                fields: fields.0.into_iter().collect(),
                ..entry
            }
            .to_json(),
            // In the order in which they were given, unlike those of an object.
            LogFormat::Text => {
                let mut message = entry.message;
                for (key, value) in fields.0 {
                    let _ = write!(message, " {key}={value}");
                }
                Entry { message, ..entry }.to_text()
            }
        };
        line.push('\n');
        line
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let now_us = monotonic_ns() / 1000;
        let site = (
            record.file_static().unwrap_or_default(),
            record.line().unwrap_or(0),
        );
        let mut fields = Fields::default();
        let message = match self.permit(site, now_us / 1_000_000) {
            Permit::Drop => return,
            Permit::Notice => {
                let (file, number) = site;
                format!(
                    "more than {LINES_PER_SECOND} lines a second from {file}:{number}: the rest is dropped"
                )
            }
            Permit::Write { dropped } => {
                let _ = record.key_values().visit(&mut fields);
                if dropped > 0 {
                    fields.0.push(("dropped".into(), dropped.to_string()));
                }
                record.args().to_string()
            }
        };
        let entry = Entry {
            monotonic_us: Some(now_us),
            process: Some(self.role.into()),
            level: Some(record.level().to_string()),
            message,
            ..Entry::default()
        };
        let line = self.line(entry, fields);
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

/// An error and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &mut Budget, second: u64, permit: Permit) -> usize {
        (0..1000).filter(|_| budget.take(second) == permit).count()
    }

    #[test]
    fn call_site_that_floods_is_cut_until_the_next_second() {
        let write = Permit::Write { dropped: 0 };
        assert_eq!(taken(&mut Budget::default(), 1, write), 10);
        let mut budget = Budget::default();
        assert_eq!(taken(&mut budget, 1, Permit::Notice), 1);
        assert_eq!(budget.take(2), Permit::Write { dropped: 990 });
        assert_eq!(budget.take(2), write);
    }

    /// What a logger wrote of lines from `sites`, one after the other in less than a second or two.
    fn logged(format: LogFormat, sites: &[(&'static str, u32)]) -> String {
        use std::io::{Read as _, Seek as _};
        let mut file = tempfile::tempfile().unwrap();
        let logger = Logger {
            role: "test",
            vm_id: "web".into(),
            format,
            file: Some(file.try_clone().unwrap()),
            budgets: Mutex::default(),
        };
        for (name, line) in sites {
            logger.log(
                &Record::builder()
                    .file_static(Some(name))
                    .line(Some(*line))
                    .args(format_args!("{name} {line}"))
                    .build(),
            );
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn call_site_that_floods_silences_no_other_and_says_that_it_dropped() {
        // 64 lines apart, and files with names of one length.
        let flood = [("a.rs", 1); 200];
        let others = [("a.rs", 65), ("b.rs", 1), ("b.rs", 65)];
        let text = logged(LogFormat::Text, &[&flood[..], &others].concat());
        for (name, line) in others {
            assert!(
                text.contains(&format!("{name} {line} vm_id=web\n")),
                "{text}"
            );
        }
        let notice = "more than 10 lines a second from a.rs:1: the rest is dropped";
        assert!(text.contains(notice), "{text}");
    }

    #[test]
    fn line_of_either_format_says_the_same() {
        let site = [("a.rs", 1)];
        let text = logged(LogFormat::Text, &site);
        assert!(text.ends_with("test INFO a.rs 1 vm_id=web\n"), "{text}");
        let json = logged(LogFormat::Json, &site);
        let entry = Entry::of(json.trim_end(), 0, SystemTime::now());
        assert!(entry.time.as_ref().is_some_and(|time| time.ends_with('Z')));
        assert_eq!(entry.message, "a.rs 1");
        assert_eq!(entry.fields["vm_id"], "web");
        let shown = entry.to_text();
        assert!(shown.ends_with("test INFO a.rs 1 vm_id=web"), "{shown}");
    }

    #[test]
    fn error_chain_is_printed_once_and_in_order() {
        let cause = std::io::Error::other("disk on fire");
        let error = ipc::record::RecordError::Read(cause);
        assert_eq!(chain(&error), "cannot read the launch record: disk on fire");
    }
}
