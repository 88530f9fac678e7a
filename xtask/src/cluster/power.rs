// SPDX-License-Identifier: Apache-2.0
//! The power of the hosts, and the switch that the cluster's fence agent reaches: it asks by a file, and
//! is told by another when the host is off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::timeline::Timeline;

/// How long a switch takes.
const SWITCHING: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(20);

/// Which hosts are on, with their pid 1.
#[derive(Debug, Default)]
pub(super) struct Power(Mutex<BTreeMap<String, Pid>>);

impl Power {
    pub(super) fn is_on(&self, host: &str, init: Pid) {
        self.on().insert(host.to_owned(), init);
    }

    pub(super) fn init(&self, host: &str) -> Option<Pid> {
        self.on().get(host).copied()
    }

    /// Turns a host off: with its pid 1 the kernel kills all of it. Returns when it is gone.
    pub(super) fn off(&self, host: &str) {
        let Some(init) = self.on().remove(host) else {
            return;
        };
        // It may have ended already.
        let _ = kill(init, Signal::SIGKILL);
        while Path::new(&format!("/proc/{init}")).exists() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn on(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the switch, which listens in a directory as long as the case runs.
pub(super) fn serve(dir: PathBuf, power: Arc<Power>, timeline: Arc<Timeline>) {
    thread::spawn(move || {
        loop {
            for host in asked(&dir) {
                power.off(&host);
                thread::sleep(SWITCHING);
                timeline.say(format_args!("fence: {host} is off"));
                // The agent waits for it.
                let _ = fs::write(dir.join(format!("{host}.off")), "");
            }
            thread::sleep(EVERY);
        }
    });
}

/// The hosts that are to be turned off; they are asked for once.
fn asked(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let asked = names.filter_map(|name| name.strip_suffix(".request").map(str::to_owned));
    asked
        .filter(|host| fs::remove_file(dir.join(format!("{host}.request"))).is_ok())
        .collect()
}

/// When the fence agent last told the cluster that a host is off, in seconds since 1970.
pub(super) fn returned(dir: &Path, host: &str) -> Result<f64> {
    let path = dir.join(format!("{host}.returned"));
    let text = fs::read_to_string(&path).with_context(|| format!("{host} was not fenced"))?;
    text.trim().parse().context("the fence agent's time")
}
