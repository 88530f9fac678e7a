// SPDX-License-Identifier: Apache-2.0
//! The command line of a backend that runs alone: the conventions of vhost-user backend programs
//! (vhost-user specification, "Backend programs"), and what our disks have beyond them.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};

/// What `--print-capabilities` answers (QEMU's docs/interop/vhost-user.json).
pub(crate) const CAPABILITIES: &str = r#"{"type": "block", "features": ["read-only", "blk-file"]}"#;

/// Serve a disk image to a virtual machine over vhost-user.
///
/// Works with every VMM that has a vhost-user-blk frontend. The process serves one connection and
/// ends with it.
///
/// Started by Bulkhead's jailer the same process has no file system, no network and no descriptor of
/// the image, and it can be replaced while the guest runs. Alone it runs with the rights it was
/// started with, less what --seccomp takes away; what is in flight when it dies is lost to the guest.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Options {
    /// Listen on this socket; a stale one in its place is removed.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub(crate) socket_path: Option<PathBuf>,
    /// Listen on this inherited descriptor, a bound and listening unix socket.
    #[arg(long, value_name = "N")]
    pub(crate) fd: Option<RawFd>,
    /// Print what this program can do as JSON, and end.
    #[arg(long)]
    pub(crate) print_capabilities: bool,
    /// The disk: path=F[,readonly][,direct][,queues=N][,queue-size=N][,engine=uring|threads]
    /// [,serial=S][,poll-us=N]
    #[arg(long, value_name = "DISK", conflicts_with = "blk_file")]
    pub(crate) disk: Option<DiskOption>,
    /// The same as --disk path=PATH.
    #[arg(long, value_name = "PATH")]
    pub(crate) blk_file: Option<PathBuf>,
    /// The same as readonly in --disk.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What a system call outside the filter does: end the process, end it after its name was
    /// logged, or nothing.
    #[arg(long, value_name = "MODE", default_value = "on")]
    pub(crate) seccomp: Seccomp,
}

/// `--seccomp`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Seccomp {
    On,
    Log,
    Off,
}

/// `engine=`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineOption {
    Uring,
    Threads,
}

/// `--disk`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskOption {
    pub(crate) path: PathBuf,
    pub(crate) readonly: bool,
    pub(crate) direct: bool,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
    pub(crate) engine: EngineOption,
    pub(crate) serial: String,
    pub(crate) poll_us: u32,
}

/// How long a worker looks for work before it sleeps, if nothing else is said.
const POLL_US: u32 = 50;

impl DiskOption {
    /// A disk that is only a path.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            readonly: false,
            direct: false,
            queues: 1,
            queue_size: 256,
            engine: EngineOption::Uring,
            serial: String::new(),
            poll_us: POLL_US,
        }
    }
}

impl FromStr for DiskOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut disk = Self::new(PathBuf::new());
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match (key, value) {
                ("path", path) => disk.path = path.into(),
                ("readonly", "") => disk.readonly = true,
                ("direct", "") => disk.direct = true,
                ("queues", n) => disk.queues = number(key, n)?,
                ("queue-size", n) => disk.queue_size = number(key, n)?,
                ("poll-us", n) => disk.poll_us = number(key, n)?,
                ("serial", serial) => disk.serial = serial.into(),
                ("engine", "uring") => disk.engine = EngineOption::Uring,
                ("engine", "threads") => disk.engine = EngineOption::Threads,
                ("engine", _) => {
                    return Err(format!("engine {value:?}: expected uring or threads"));
                }
                _ => return Err(format!("unknown option {part:?}")),
            }
        }
        if disk.path.as_os_str().is_empty() {
            return Err("path= is missing".into());
        }
        Ok(disk)
    }
}

fn number<N: FromStr>(key: &str, text: &str) -> Result<N, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{key} {text:?}: expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_with_every_option_is_understood() {
        let text =
            "path=/a,readonly,direct,queues=4,queue-size=128,engine=threads,serial=x,poll-us=0";
        let disk: DiskOption = text.parse().unwrap();
        let expected = DiskOption {
            path: "/a".into(),
            readonly: true,
            direct: true,
            queues: 4,
            queue_size: 128,
            engine: EngineOption::Threads,
            serial: "x".into(),
            poll_us: 0,
        };
        assert_eq!(disk, expected);
    }

    #[test]
    fn disk_misspelt_or_without_a_path_is_refused() {
        for text in [
            "",
            "queues=1",
            "path=",
            "path=a,queue=1",
            "path=a,queues=x",
            "path=a,engine=aio",
        ] {
            assert!(text.parse::<DiskOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
