// SPDX-License-Identifier: Apache-2.0
//! The log: lines on file descriptor 2, one write each, with structured fields behind the message.
//!
//! `[  12.345678] vmm WARN the message vm_id=a device_id=disk0`
//!
//! Every call site may write ten lines a second and no more, whoever makes it write: what a guest or
//! a backend can trigger cannot fill a disk.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::clock::monotonic_ns;

/// Lines that one call site may write per second.
const LINES_PER_SECOND: u32 = 10;
/// Budgets; call sites that meet in one share it.
const BUDGETS: usize = 64;

#[derive(Debug)]
struct Logger {
    role: &'static str,
    vm_id: String,
    /// Where lines go, if not to file descriptor 2.
    file: Option<File>,
    budgets: Mutex<[Budget; BUDGETS]>,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    second: u64,
    lines: u32,
}

impl Budget {
    /// Whether one more line may be written in this second.
    fn take(&mut self, second: u64) -> bool {
        if self.second != second {
            *self = Self { second, lines: 0 };
        }
        self.lines += 1;
        self.lines <= LINES_PER_SECOND
    }
}

/// Sends everything logged in this process to file descriptor 2. The first call counts.
pub fn init(role: &'static str, vm_id: &str, level: LevelFilter) {
    start(role, vm_id, level, None);
}

/// As [`init`], to a file opened for appending: for the process whose file descriptor 2 is the
/// user's.
pub fn init_to(file: File, role: &'static str, vm_id: &str, level: LevelFilter) {
    start(role, vm_id, level, Some(file));
}

fn start(role: &'static str, vm_id: &str, level: LevelFilter, file: Option<File>) {
    let budgets = Mutex::new(
        [Budget {
            second: 0,
            lines: 0,
        }; BUDGETS],
    );
    let logger = Logger {
        role,
        vm_id: vm_id.to_string(),
        file,
        budgets,
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

/// Writes ` key=value` for each structured field of a record.
struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let now_us = monotonic_ns() / 1000;
        let (second, micros) = (now_us / 1_000_000, now_us % 1_000_000);
        let file = record.file().map_or(0, str::len);
        let site = (file * 31 + record.line().unwrap_or(0) as usize) % BUDGETS;
        let Ok(mut budgets) = self.budgets.lock() else {
            return;
        };
        if !budgets[site].take(second) {
            return;
        }
        drop(budgets);
        let mut line = String::with_capacity(160);
        let _ = write!(
            line,
            "[{second:5}.{micros:06}] {} {} ",
            self.role,
            record.level()
        );
        let _ = write!(line, "{}", record.args());
        let _ = record.key_values().visit(&mut Fields(&mut line));
        if !self.vm_id.is_empty() {
            let _ = write!(line, " vm_id={}", self.vm_id);
        }
        let mut line = harmless(line);
        line.push('\n');
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

/// One entry is one line, and no terminal obeys it, whatever a peer has put into it.
fn harmless(line: String) -> String {
    if line.contains(char::is_control) {
        return line.replace(char::is_control, " ");
    }
    line
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

    #[test]
    fn call_site_that_floods_is_cut_until_the_next_second() {
        let mut budget = Budget {
            second: 0,
            lines: 0,
        };
        let written = (0..1000).filter(|_| budget.take(1)).count();
        assert_eq!(written, LINES_PER_SECOND as usize);
        assert!(budget.take(2));
    }

    #[test]
    fn entry_with_control_characters_is_one_line_that_no_terminal_obeys() {
        let entry = "lost: \x1b[2J\r\nfake\u{9b}31m".to_owned();
        assert_eq!(harmless(entry), "lost:  [2J  fake 31m");
        assert_eq!(harmless("as it was: ä".into()), "as it was: ä");
    }

    #[test]
    fn error_chain_is_printed_once_and_in_order() {
        let cause = std::io::Error::other("disk on fire");
        let error = crate::record::RecordError::Read(cause);
        assert_eq!(chain(&error), "cannot read the launch record: disk on fire");
    }
}
