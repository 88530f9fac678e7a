// SPDX-License-Identifier: Apache-2.0
//! The event monitor: JSON documents one after the other, for a reader that may be slow or gone. Writing
//! never waits; what does not fit is lost, as with Cloud Hypervisor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::json;

/// Where events are written, if anywhere.
#[derive(Debug)]
pub struct Monitor {
    file: Option<File>,
    started: Instant,
}

impl Monitor {
    /// Nobody listens.
    pub fn none() -> Self {
        Self {
            file: None,
            started: Instant::now(),
        }
    }

    /// Opens a file or a named pipe. Waits for the pipe's reader: libvirt opens it only after it has
    /// started us, and waits in turn without limit if we end before. So do this before all that can fail.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::options().create(true).append(true).open(path)?)
    }

    /// Takes an inherited descriptor.
    ///
    /// # Errors
    /// When the kernel does not let it be made non-blocking.
    pub fn inherited(fd: OwnedFd) -> io::Result<Self> {
        Self::of(fd.into())
    }

    fn of(file: File) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            file: Some(file),
            ..Self::none()
        })
    }

    /// Tells an event of the VM (`source` `vm`) or of this process (`vmm`). An event is shorter than
    /// what a pipe takes at once.
    pub fn tell(&mut self, source: &str, event: &str) {
        let Some(file) = &mut self.file else {
            return;
        };
        let time = self.started.elapsed();
        let document = json!({
            "timestamp": {"secs": time.as_secs(), "nanos": time.subsec_nanos()},
            "source": source,
            "event": event,
            "properties": null,
        });
        let _ = file.write(format!("{document:#}\n\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn events_are_documents_that_counting_braces_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut monitor = Monitor::open(&path).unwrap();
        monitor.tell("vmm", "starting");
        monitor.tell("vm", "booted");
        let text = std::fs::read_to_string(&path).unwrap();
        let events = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        let events: Vec<_> = events.map(Result::unwrap).collect();
        let told = events
            .iter()
            .map(|e| (e["source"].as_str(), e["event"].as_str()));
        let told: Vec<_> = told.collect();
        assert_eq!(
            told,
            [
                (Some("vmm"), Some("starting")),
                (Some("vm"), Some("booted"))
            ]
        );
        assert!(events[0]["timestamp"]["nanos"].is_u64() && events[0]["properties"].is_null());
        assert!(text.matches('{').count() == 4 && text.len() < 2 * 4095);
    }

    #[test]
    fn reader_that_is_slow_or_gone_is_not_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut monitor = Monitor::inherited(writer.into()).unwrap();
        for _ in 0..10_000 {
            monitor.tell("vm", "paused");
        }
        assert!(reader.read(&mut [0; 16]).unwrap() > 0);
        drop(reader);
        monitor.tell("vm", "paused");
    }
}
