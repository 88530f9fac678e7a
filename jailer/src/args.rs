// SPDX-License-Identifier: Apache-2.0
//! The jailer's command line: few flags and a small parser, because the jailer stays in memory for as
//! long as its VM runs.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;

use lexopt::Arg::{Long, Short};
use lexopt::Parser;
use spec::VmName;

/// What `--help` prints.
const HELP: &str = "\
Starts one VM, supervises it, and stays until it has ended.

Usage: jailer --config FILE [--state-dir DIR] [--api-gid GID] [--console-fd N] [--tap-fd N]...
       jailer --sweep NAME [--state-dir DIR]
       jailer --doctor

  --config FILE     the VM, as JSON (`bulkhead schema` describes it)
  --state-dir DIR   where the VM's state directory is made, instead of /run/bulkhead
                    (root) or $XDG_RUNTIME_DIR/bulkhead
  --api-gid GID     a group whose members may use the VM's sockets, too
  --console-fd N    an inherited stream socket: the console's first client
  --tap-fd N        an inherited queue of a tap, which --config names as fd of a network card; repeat
                    it for others
  --sweep NAME      start nothing; remove what a jailer that was killed has left of VM NAME
  --doctor          start nothing; say what of a jail this host can give, and what not
  --version         print the version
  --help            print this

Every other descriptor that the jailer was started with is closed, but for 0, 1, 2 and the one that
--config names as /dev/fd/N.
With NOTIFY_SOCKET in the environment, READY=1 is sent there when the guest starts.
SIGTERM and SIGINT press the power button, a second one ends the VM at once, as do SIGHUP and SIGQUIT.
Signals that the starter ignores are ignored, but for SIGTERM.
Exit status: 0 the guest powered off, 1 error, 2 usage, 3 the guest panicked or crashed, 128 + N
signal N ended the VM at once.
";

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// The VM's spec.
    pub config: PathBuf,
    /// Where the state directory goes, if not to the default place.
    pub state_dir: Option<PathBuf>,
    /// A group whose members may use the VM's sockets, too.
    pub api_gid: Option<u32>,
    /// The inherited descriptor that is the console's first client.
    pub console_fd: Option<RawFd>,
    /// The inherited descriptors that are queues of taps.
    pub tap_fds: Vec<RawFd>,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Run a VM.
    Run(Args),
    /// Remove what is left of a dead VM.
    Sweep {
        /// Its name.
        name: VmName,
        /// Where its state directory is, if not in the default place.
        state_dir: Option<PathBuf>,
    },
    /// Say what this host can give a VM, and what not.
    Doctor,
    /// Print this text and exit.
    Show(String),
}

/// The command line is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such flag.
    #[error("{0:?} is not a flag of the jailer; see jailer --help")]
    Unknown(OsString),
    /// A flag came without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// A flag came twice.
    #[error("{0} was given twice")]
    Twice(&'static str),
    /// The value is not the number of a descriptor above the standard ones.
    #[error("{0} {1:?}: must be the number of a file descriptor, 3 or more")]
    NotAnFd(&'static str, OsString),
    /// The value is not a group id.
    #[error("--api-gid {0:?}: must be the number of a group")]
    NotAGroup(OsString),
    /// The value is not a VM name.
    #[error("--sweep {0:?}: is no VM's name")]
    NotAName(OsString),
    /// `--sweep` came together with a flag of a run.
    #[error("--sweep goes with --state-dir only")]
    Conflict,
    /// No VM to run was named.
    #[error("--config is missing; see jailer --help")]
    NoConfig,
}

/// Parses the command line, without the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let (mut config, mut state_dir, mut console_fd, mut sweep) = (None, None, None, None);
    let (mut api_gid, mut tap_fds) = (None, Vec::new());
    let args: Vec<_> = args.into_iter().collect();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(unexpected)? {
        let (flag, slot) = match arg {
            Long("config") => ("--config", &mut config),
            Long("state-dir") => ("--state-dir", &mut state_dir),
            Long("sweep") => ("--sweep", &mut sweep),
            Long("api-gid") => ("--api-gid", &mut api_gid),
            Long("console-fd") => ("--console-fd", &mut console_fd),
            Long("tap-fd") => {
                let value = parser
                    .value()
                    .map_err(|_| UsageError::NoValue("--tap-fd"))?;
                tap_fds.push(descriptor("--tap-fd", value)?);
                continue;
            }
            Long("doctor") => return Ok(Parsed::Doctor),
            Long("help") | Short('h') => return Ok(Parsed::Show(HELP.into())),
            Long("version") | Short('V') => {
                let version = concat!("jailer ", env!("CARGO_PKG_VERSION"), "\n");
                return Ok(Parsed::Show(version.into()));
            }
            other => return Err(unexpected(other.unexpected())),
        };
        if slot.is_some() {
            return Err(UsageError::Twice(flag));
        }
        let value = parser.value().map_err(|_| UsageError::NoValue(flag))?;
        *slot = Some(value);
    }
    let state_dir = state_dir.map(PathBuf::from);
    if let Some(name) = sweep {
        return match (config, console_fd, api_gid) {
            (None, None, None) if tap_fds.is_empty() => {
                vm_name(&name).map(|name| Parsed::Sweep { name, state_dir })
            }
            _ => Err(UsageError::Conflict),
        };
    }
    Ok(Parsed::Run(Args {
        config: config.ok_or(UsageError::NoConfig)?.into(),
        state_dir,
        api_gid: api_gid.map(group).transpose()?,
        console_fd: console_fd
            .map(|n| descriptor("--console-fd", n))
            .transpose()?,
        tap_fds,
    }))
}

/// What is no flag of the jailer.
fn unexpected(error: lexopt::Error) -> UsageError {
    match error {
        lexopt::Error::UnexpectedOption(flag) => UsageError::Unknown(flag.into()),
        lexopt::Error::UnexpectedArgument(text) => UsageError::Unknown(text),
        other => UsageError::Unknown(other.to_string().into()),
    }
}

fn vm_name(text: &OsStr) -> Result<VmName, UsageError> {
    let name = text.to_str().and_then(|text| text.parse().ok());
    name.ok_or_else(|| UsageError::NotAName(text.into()))
}

fn group(text: OsString) -> Result<u32, UsageError> {
    match text.to_str().and_then(|text| text.parse().ok()) {
        // chown(2) takes -1 for "do not change".
        Some(gid) if gid != u32::MAX => Ok(gid),
        _ => Err(UsageError::NotAGroup(text)),
    }
}

fn descriptor(flag: &'static str, text: OsString) -> Result<RawFd, UsageError> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    match number {
        Some(number) if number >= 3 => Ok(number),
        _ => Err(UsageError::NotAnFd(flag, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Parsed, UsageError> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn args_in_either_form_are_read() {
        let wanted = Parsed::Run(Args {
            config: "vm=1.json".into(),
            state_dir: Some("/s".into()),
            api_gid: Some(7),
            console_fd: Some(9),
            tap_fds: vec![11, 12],
        });
        let spaced = parsed(&[
            "--config",
            "vm=1.json",
            "--state-dir",
            "/s",
            "--console-fd",
            "9",
            "--tap-fd",
            "11",
            "--tap-fd",
            "12",
            "--api-gid",
            "7",
        ]);
        let joined = parsed(&[
            "--config=vm=1.json",
            "--state-dir=/s",
            "--api-gid=7",
            "--console-fd=9",
            "--tap-fd=11",
            "--tap-fd=12",
        ]);
        assert_eq!(
            (spaced.as_ref(), joined.as_ref()),
            (Ok(&wanted), Ok(&wanted))
        );
    }

    #[test]
    fn args_wrong_are_refused_each_for_its_reason() {
        assert_eq!(parsed(&[]), Err(UsageError::NoConfig));
        assert_eq!(parsed(&["--config"]), Err(UsageError::NoValue("--config")));
        assert_eq!(
            parsed(&["vm.json"]),
            Err(UsageError::Unknown("vm.json".into()))
        );
        let unknown = UsageError::Unknown("--confi".into());
        assert_eq!(parsed(&["--confi=a"]), Err(unknown));
        let twice = parsed(&["--config", "a", "--config", "b"]);
        assert_eq!(twice, Err(UsageError::Twice("--config")));
        for number in ["0", "2", "-1", "x", "2147483648"] {
            for flag in ["--console-fd", "--tap-fd"] {
                let refused = parsed(&["--config", "a", flag, number]);
                assert_eq!(refused, Err(UsageError::NotAnFd(flag, number.into())));
            }
        }
    }

    #[test]
    fn group_that_is_no_number_or_no_group_is_refused() {
        for group in ["kvm", "-1", "", "4294967295", "4294967296"] {
            let refused = parsed(&["--config", "a", "--api-gid", group]);
            assert_eq!(refused, Err(UsageError::NotAGroup(group.into())));
        }
    }

    #[test]
    fn sweep_takes_a_name_and_nothing_to_run() {
        let wanted = Parsed::Sweep {
            name: "a".parse().unwrap(),
            state_dir: None,
        };
        assert_eq!(parsed(&["--sweep", "a"]), Ok(wanted));
        let refused = parsed(&["--sweep", "a/b"]);
        assert_eq!(refused, Err(UsageError::NotAName("a/b".into())));
        let both = parsed(&["--sweep", "a", "--config", "b"]);
        assert_eq!(both, Err(UsageError::Conflict));
    }

    #[test]
    fn help_wins_over_what_is_missing() {
        assert!(matches!(parsed(&["--help"]), Ok(Parsed::Show(_))));
    }
}
