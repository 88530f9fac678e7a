// SPDX-License-Identifier: Apache-2.0
//! Who uses an image, when: its locks, looked at every few milliseconds. All hosts are one kernel, so
//! that the case sees locks that a cluster of machines would not share.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use host::disk::is_marked;

const EVERY: Duration = Duration::from_millis(10);
/// The byte of an image that a program marks while it may write to it (`host/src/disk/lock.rs`).
const WRITES: i64 = 101;

/// A host began or ceased to use its image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) host: String,
    pub(super) uses: bool,
    /// Seconds since 1970.
    pub(super) at: f64,
}

/// A watch that goes on until it is asked.
#[derive(Debug)]
pub(super) struct Watch {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Change>>>,
}

/// Starts to watch each host's image.
pub(super) fn begin(images: Vec<(String, PathBuf)>) -> Watch {
    let ends = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ends);
    let thread = thread::spawn(move || look(&images, &asked));
    Watch { ends, thread }
}

impl Watch {
    /// What was seen, in its order.
    pub(super) fn end(self) -> Result<Vec<Change>> {
        self.ends.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| anyhow!("the watch panicked"))?
    }
}

fn look(images: &[(String, PathBuf)], ends: &AtomicBool) -> Result<Vec<Change>> {
    let mut files = Vec::new();
    for (host, path) in images {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        files.push((host, file, false));
    }
    let mut seen = Vec::new();
    while !ends.load(Ordering::Acquire) {
        for (host, file, used) in &mut files {
            let uses = is_marked(file, WRITES)?;
            if uses != *used {
                *used = uses;
                let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
                let host = host.clone();
                seen.push(Change { host, uses, at });
            }
        }
        thread::sleep(EVERY);
    }
    Ok(seen)
}

/// When another host took over, in seconds since 1970: it is an error if two hosts ran the VM at one time,
/// or if the other began before its cluster knew that the first was off.
pub(super) fn judge(seen: &[Change], known_off: Option<f64>) -> Result<f64> {
    let mut user: Option<&str> = None;
    let mut took_over = None;
    for change in seen {
        match (change.uses, user) {
            (true, Some(first)) => {
                bail!("{} began while {first} still ran the VM", change.host)
            }
            (true, None) => {
                user = Some(&change.host);
                took_over = Some(change.at);
            }
            (false, _) => user = None,
        }
    }
    let took_over = took_over.context("no host ran the VM")?;
    match known_off {
        Some(off) if off < took_over => Ok(took_over),
        Some(_) => bail!("the VM was started before the fence agent had returned"),
        None => bail!("the VM was started and nothing was fenced"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(host: &str, uses: bool, at: f64) -> Change {
        let host = host.to_owned();
        Change { host, uses, at }
    }

    #[test]
    fn split_brain_and_an_early_start_are_errors() {
        let split = [change("a", true, 1.0), change("b", true, 5.0)];
        let moved = [
            change("a", true, 1.0),
            change("a", false, 3.0),
            change("b", true, 5.0),
        ];
        assert!(judge(&split, Some(4.0)).is_err());
        assert!(judge(&moved, Some(5.5)).is_err());
        assert!(judge(&moved, None).is_err());
        assert_eq!(judge(&moved, Some(4.0)).unwrap(), 5.0);
    }
}
