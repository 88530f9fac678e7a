// SPDX-License-Identifier: Apache-2.0
//! `bulkhead wait`: returns when a VM is so far.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use nix::fcntl::{Flock, FlockArg};
use regex_lite::Regex;
use spec::VmName;
use spec::api::{CONSOLE_KEPT_BYTES, EventKind, VmState};
use spec::state::API_SOCKET;

use crate::chunks::Chunks;
use crate::client::{self, ClientError};
use crate::ended;
use crate::error::Error;
use crate::events;
use crate::jailer;
use crate::output;

/// What to wait for.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// The guest runs.
    Running,
    /// The VM has ended, and nothing of it is left.
    Ended,
    /// A line of the console in which this is found.
    Console(Regex),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "running" => Ok(Self::Running),
            None if text == "ended" => Ok(Self::Ended),
            Some(("console", "")) => Err("the expression is missing behind console=".into()),
            Some(("console", regex)) => match Regex::new(regex) {
                Ok(regex) => Ok(Self::Console(regex)),
                Err(error) => Err(format!("{regex:?} is not a regular expression: {error}")),
            },
            _ => Err("expected running, ended or console=REGEX".into()),
        }
    }
}

/// Waits. Tells of the end of a VM how that was, which is forgotten then, as wait(2) does.
pub(crate) fn wait(base: &Path, vm: &VmName, goal: &Goal, json: bool) -> Result<(), Error> {
    match goal {
        Goal::Running => until_running(base, vm)?,
        Goal::Console(regex) => until_console_shows(base, vm, regex)?,
        Goal::Ended => {
            let is_known = until_ended(base, vm)?;
            return match ended::take(base, vm) {
                Some(ended) if json => output::print_json(&ended::Shown::from(ended)),
                Some(ended) => output::print(&ended::line(&ended)),
                None if is_known => output::acted(json, vm, "wait"),
                None => Err(ClientError::Unknown(vm.to_string(), base.into()).into()),
            };
        }
    }
    output::acted(json, vm, "wait")
}

fn until_running(base: &Path, vm: &VmName) -> Result<(), ClientError> {
    let runs = || client::info(base, vm).map(|info| info.state == VmState::Running);
    // Followed before it is looked: nothing happens unnoticed in between.
    let mut chunks = Chunks::begin(client::connect(base, vm, API_SOCKET)?, vm, "/v1/events")?;
    if runs()? {
        return Ok(());
    }
    while let Some(event) = events::next(&mut chunks)? {
        if matches!(event.kind, EventKind::Started | EventKind::Resumed) && runs()? {
            return Ok(());
        }
    }
    Err(ClientError::EndedFirst(
        vm.to_string(),
        "its guest ran".into(),
    ))
}

/// Returns when there is no VM of this name, and whether there was one.
fn until_ended(base: &Path, vm: &VmName) -> Result<bool, ClientError> {
    let path = base.join(vm.as_str());
    let dir = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(|e| ClientError::Io(vm.to_string(), e))?,
    };
    let id = dir.metadata().ok().map(|found| (found.dev(), found.ino()));
    // The jailer holds the lock as long as anything of the VM is left.
    Flock::lock(dir, FlockArg::LockShared)
        .map_err(|(_, e)| ClientError::Io(vm.to_string(), e.into()))?;
    let same = |found: &Metadata| id.is_some_and(|id| id == (found.dev(), found.ino()));
    match fs::metadata(&path) {
        // A jailer that ends removes it before it lets go of it.
        Ok(found) if same(&found) && !jailer::sweep(base, vm) => Err(ClientError::Dead {
            vm: vm.clone(),
            base: base.into(),
        }),
        _ => Ok(true),
    }
}

fn until_console_shows(base: &Path, vm: &VmName, regex: &Regex) -> Result<(), ClientError> {
    let mut output = Chunks::begin(client::connect(base, vm, API_SOCKET)?, vm, "/v1/console")?;
    let mut lines = Lines::default();
    while let Some(chunk) = output.next()? {
        if lines.add(&chunk, |line| regex.is_match(line)) {
            return Ok(());
        }
    }
    let what = format!("its console showed {:?}", regex.as_str());
    Err(ClientError::EndedFirst(vm.to_string(), what))
}

/// The console's output in lines, as it comes. The last one may still be written: a prompt never
/// ends.
#[derive(Debug, Default)]
struct Lines {
    last: Vec<u8>,
}

impl Lines {
    /// Adds output; whether `fits` holds for a line that it completes or begins.
    fn add(&mut self, output: &[u8], fits: impl Fn(&str) -> bool) -> bool {
        let mut pieces = output.split(|&byte| byte == b'\n');
        let mut found = false;
        if let Some(rest) = pieces.next() {
            self.last.extend_from_slice(rest);
            found = self.is_fit(&fits);
        }
        for piece in pieces {
            self.last = piece.to_vec();
            found |= self.is_fit(&fits);
        }
        let excess = self.last.len().saturating_sub(CONSOLE_KEPT_BYTES);
        self.last.drain(..excess);
        found
    }

    fn is_fit(&self, fits: impl Fn(&str) -> bool) -> bool {
        let line = self.last.strip_suffix(b"\r").unwrap_or(&self.last);
        fits(&String::from_utf8_lossy(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goal_is_understood_or_refused_with_the_choices() {
        assert!(matches!("running".parse(), Ok(Goal::Running)));
        assert!(matches!("ended".parse(), Ok(Goal::Ended)));
        assert!(matches!("console=a=b".parse(), Ok(Goal::Console(r)) if r.as_str() == "a=b"));
        for (text, reason) in [
            ("", "expected running, ended or console=REGEX"),
            ("paused", "expected running, ended or console=REGEX"),
            ("console", "expected running, ended or console=REGEX"),
            ("console=", "is missing"),
            ("console=[", "is not a regular expression"),
        ] {
            let error = text.parse::<Goal>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    fn found(regex: &str, chunks: &[&[u8]]) -> bool {
        let regex = Regex::new(regex).unwrap();
        let mut lines = Lines::default();
        chunks
            .iter()
            .any(|chunk| lines.add(chunk, |line| regex.is_match(line)))
    }

    #[test]
    fn line_is_found_however_it_is_cut() {
        let output = b"booting\r\nweb login: ";
        for cut in 0..output.len() {
            let (first, second) = output.split_at(cut);
            assert!(found("^web login: $", &[first, second]), "{cut}");
            assert!(found("^booting$", &[first, second]), "{cut}");
            assert!(!found("booting.*login", &[first, second]), "{cut}");
        }
    }

    #[test]
    fn line_that_is_not_text_or_never_ends_is_searched_all_the_same() {
        assert!(found("ready", &[b"\xff\xferea", b"dy"]));
        let endless = [b'x'; CONSOLE_KEPT_BYTES];
        assert!(found("x!", &[&endless, &endless, b"!"]));
        assert!(!found("y", &[&endless, &endless]));
    }
}
