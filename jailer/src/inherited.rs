// SPDX-License-Identifier: Apache-2.0
//! The descriptors that the jailer inherits. The command line names those it keeps; it closes all
//! others before it opens anything, so that no descriptor of the starter remains in a process that
//! sees the host or in its children. It takes ownership of the named ones at the same time: a
//! number that is not open could later be that of something the process itself opened.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use host::descriptors::{STANDARD, close_all_but};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::args::{Args, Parsed};

/// The command line names a descriptor that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// Nothing is open at this number.
    #[error("{flag} {value}: file descriptor {number} is not open: start the jailer with it open")]
    NotOpen {
        /// The flag that names it.
        flag: &'static str,
        /// The flag's value.
        value: String,
        /// The descriptor's number.
        number: RawFd,
    },
    /// The console's client is not a stream socket.
    #[error("--console-fd {0}: is not a stream socket")]
    NotAStream(RawFd),
    /// The kernel refused a call that never fails.
    #[error("cannot close the descriptors that the jailer was started with")]
    Close(#[source] Errno),
}

/// What the jailer keeps of what it inherited, beside its standard descriptors.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The console's first client.
    pub(crate) console: Option<OwnedFd>,
    /// What `--config` leads to, if it is a path such as `/dev/fd/7`; the jailer closes it once it
    /// is read.
    pub(crate) config: Option<OwnedFd>,
    /// Those of `--tap-fd` that are open, by their numbers.
    pub(crate) taps: BTreeMap<RawFd, OwnedFd>,
}

impl Inherited {
    /// Takes what the command line names and closes everything else. Call it once, before the
    /// process opens anything.
    pub fn take(parsed: &Parsed) -> Result<Self, InheritedError> {
        let Parsed::Run(args) = parsed else {
            return close_all_but(&[])
                .map(|()| Self::default())
                .map_err(InheritedError::Close);
        };
        let (console, config) = named(args)?;
        // The reader of the spec names those that are not open. Each number has one owner.
        let taps = args
            .tap_fds
            .iter()
            .copied()
            .filter(|number| is_open(*number));
        let taps = taps.filter(|number| ![console, config].contains(&Some(*number)));
        let taps: BTreeSet<_> = taps.collect();
        let mut kept: Vec<_> = console.into_iter().chain(config).collect();
        kept.extend(&taps);
        kept.sort_unstable();
        close_all_but(&kept).map_err(InheritedError::Close)?;
        let inherited = Self {
            console: console.map(own),
            config: config.map(own),
            taps: taps
                .into_iter()
                .map(|number| (number, own(number)))
                .collect(),
        };
        let single = [&inherited.console, &inherited.config]
            .into_iter()
            .flatten();
        for fd in single.chain(inherited.taps.values()) {
            let marked = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            marked.map_err(InheritedError::Close)?;
        }
        Ok(inherited)
    }
}

/// The numbers that the command line names, all of them open: the console's client, and the spec's
/// descriptor.
fn named(args: &Args) -> Result<(Option<RawFd>, Option<RawFd>), InheritedError> {
    let not_open = |flag, value, number| InheritedError::NotOpen {
        flag,
        value,
        number,
    };
    if let Some(number) = args.console_fd {
        if !is_open(number) {
            return Err(not_open("--console-fd", number.to_string(), number));
        }
        if getsockopt(&borrow(number), sockopt::SockType) != Ok(SockType::Stream) {
            return Err(InheritedError::NotAStream(number));
        }
    }
    let config = descriptor(&args.config);
    if let Some(number) = config
        && !is_open(number)
    {
        let path = format!("{:?}", args.config);
        return Err(not_open("--config", path, number));
    }
    // If both flags name one descriptor, the console owns it; reading the spec from it fails later.
    let config = config.filter(|number| Some(*number) != args.console_fd);
    Ok((args.console_fd, config))
}

/// The number of this process's descriptor that a path leads to, if it is not a standard one.
fn descriptor(path: &Path) -> Option<RawFd> {
    let path = path.to_str()?;
    let mut dirs = ["/dev/fd/", "/proc/self/fd/"].into_iter();
    let number = dirs.find_map(|dir| path.strip_prefix(dir))?;
    number.parse().ok().filter(|number| *number >= STANDARD)
}

fn is_open(number: RawFd) -> bool {
    fcntl(borrow(number), FcntlArg::F_GETFD).is_ok()
}

fn own(number: RawFd) -> OwnedFd {
    // SAFETY: it was open when `named` or `take` looked, is not a standard one, was not closed since,
    // and the process has made no owner of it. No number comes twice: `named` and `take` see to that.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not -1; it is used only to ask what is open there.
    unsafe { BorrowedFd::borrow_raw(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    fn args(config: &str, console_fd: Option<RawFd>) -> Args {
        Args {
            config: PathBuf::from(config),
            state_dir: None,
            api_gid: None,
            console_fd,
            tap_fds: Vec::new(),
        }
    }

    #[test]
    fn descriptor_named_but_not_open_is_told_with_its_flag() {
        let console = named(&args("/vm.json", Some(5000)))
            .unwrap_err()
            .to_string();
        assert!(console.starts_with("--console-fd 5000: file descriptor 5000 is not open"));
        let config = named(&args("/dev/fd/5000", None)).unwrap_err().to_string();
        assert!(config.starts_with("--config \"/dev/fd/5000\": file descriptor 5000 is not"));
    }

    #[test]
    fn console_that_is_no_stream_socket_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let (datagrams, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        for number in [file.as_raw_fd(), datagrams.as_raw_fd()] {
            let refused = named(&args("/vm.json", Some(number)));
            assert!(matches!(refused, Err(InheritedError::NotAStream(_))));
        }
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = stream.as_raw_fd();
        let kept = named(&args("/vm.json", Some(number))).unwrap();
        assert_eq!(kept, (Some(number), None));
    }

    #[test]
    fn config_that_leads_to_a_descriptor_is_kept() {
        for (path, number) in [
            ("/dev/fd/7", Some(7)),
            ("/proc/self/fd/12", Some(12)),
            ("/dev/fd/0", None),
            ("/dev/fd/x", None),
            ("/etc/vm.json", None),
        ] {
            assert_eq!(descriptor(Path::new(path)), number, "{path}");
        }
    }
}
