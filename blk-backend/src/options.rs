// SPDX-License-Identifier: Apache-2.0
//! The command line options of a standalone disk, beyond those of all backends.

use std::path::PathBuf;
use std::str::FromStr;

use device_backend::options::{self, DeviceOptions, Value, number, text_of};

/// What `--help` prints.
const HELP: &str = "\
Serve a disk image to a virtual machine over vhost-user.

Usage: blk-backend (--socket-path PATH | --fd N) --disk path=F[,OPTION]...

  --socket-path PATH    listen on this socket; a stale one in its place is removed
  --fd N                listen on this inherited descriptor, a bound and listening unix socket
  --disk path=F[,..]    the disk; F is a file or a block device
       readonly         refuse writes
       direct           bypass the page cache
       queues=N         1 to 16; 1 by default
       queue-size=N     the longest queue to accept: a power of two from 16 to 1024, the default
       engine=E         uring (the default) or threads
       block-size=N     the logical block that the guest sees, 512 or 4096; by default 512 of a file,
                        and of a block device its own
       serial=S         what the guest sees as serial number, at most 20 bytes
       poll-us=N        how long a queue's thread looks for work before it sleeps; 50 by default,
                        0 never. Looks that find nothing take at most 10 % of a processor.
  --blk-file PATH       the same as --disk path=PATH
  --read-only           the same as readonly in --disk
  --seccomp MODE        what a system call outside the filter does: end the process (on, the
                        default), end it after its name was logged (log), nothing special (off)
  --print-capabilities  print what this program can do as JSON
  --version, --help

Works with every VMM that has a vhost-user-blk frontend: with QEMU, for example,
  -chardev socket,id=c,path=PATH -device vhost-user-blk-pci,chardev=c
and guest memory that is shared (-object memory-backend-memfd,share=on). The process serves one
connection and ends with it.

Started by Bulkhead's jailer this process has no file system, no network and no descriptor of the
image, and it can be killed and replaced while the guest runs. Alone it has the rights it was started
with, less what --seccomp takes away, and none of that is promised: requests that are in flight when
it dies are lost to the guest.
";

/// The command line.
pub(crate) type Options = options::Options<DiskOptions>;

/// The options of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskOptions {
    pub(crate) disk: Option<DiskOption>,
    read_only: bool,
}

impl DeviceOptions for DiskOptions {
    const HELP: &'static str = HELP;
    const CAPABILITIES: &'static str =
        "{\"type\": \"block\", \"features\": [\"read-only\", \"blk-file\"]}\n";

    fn set(&mut self, name: &str, value: Value<'_>) -> Result<bool, String> {
        match name {
            "--disk" => self.disk = Some(text_of(value()?)?.parse()?),
            "--blk-file" => self.disk = Some(DiskOption::new(value()?.into())),
            "--read-only" => self.read_only = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&mut self) -> Result<(), String> {
        let disk = self.disk.as_mut().ok_or("--disk is needed")?;
        disk.readonly |= self.read_only;
        Ok(())
    }
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
    pub(crate) block_size: Option<u32>,
}

/// The default of the longest queue to accept; the frontend chooses the size.
const QUEUE_SIZE: u16 = 1024;
/// The default time that a worker polls before it sleeps, in µs.
const POLL_US: u32 = 50;

impl DiskOption {
    /// A disk with default options.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            readonly: false,
            direct: false,
            queues: 1,
            queue_size: QUEUE_SIZE,
            engine: EngineOption::Uring,
            serial: String::new(),
            poll_us: POLL_US,
            block_size: None,
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
                ("block-size", "512") => disk.block_size = Some(512),
                ("block-size", "4096") => disk.block_size = Some(4096),
                ("block-size", _) => {
                    return Err(format!("block-size {value:?}: expected 512 or 4096"));
                }
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use device_backend::options::Parsed;

    use super::*;

    #[test]
    fn disk_with_every_option_is_understood() {
        let text = "path=/a,readonly,direct,queues=4,queue-size=128,engine=threads,serial=x,poll-us=0,block-size=4096";
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
            block_size: Some(4096),
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
            "path=a,block-size=1024",
        ] {
            assert!(text.parse::<DiskOption>().is_err(), "{text}");
        }
    }

    fn parse_words(line: &str) -> Result<Parsed<Options>, String> {
        options::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn command_line_of_the_conventions_is_understood() {
        let Ok(Parsed::Serve(options)) = parse_words("--fd=7 --blk-file /a --read-only") else {
            panic!("not understood");
        };
        assert_eq!(options.fd, Some(7));
        assert!(options.device.disk.unwrap().readonly);
        let line = "--socket-path /s --disk path=/a --seccomp log";
        assert!(matches!(parse_words(line), Ok(Parsed::Serve(_))));
        let line = "--print-capabilities whatever";
        assert_eq!(
            parse_words(line),
            Ok(Parsed::Print(DiskOptions::CAPABILITIES))
        );
    }

    #[test]
    fn command_line_that_makes_no_sense_is_refused() {
        for line in [
            "--disk path=/a",
            "--socket-path /s",
            "--socket-path /s --fd 3 --disk path=/a",
            "--socket-path",
            "--fd x --disk path=/a",
            "--socket-path /s --disk path=/a --seccomp maybe",
            "--socket-path /s --disk path=/a stray",
        ] {
            assert!(parse_words(line).is_err(), "{line}");
        }
    }
}
