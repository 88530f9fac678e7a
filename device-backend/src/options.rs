// SPDX-License-Identifier: Apache-2.0
//! The command line of a standalone backend: the conventions of vhost-user backend programs
//! (vhost-user specification, "Backend programs"), plus each device type's own options.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use ipc::seccomp::Mode;
use lexopt::Arg::{self, Long, Short};
use lexopt::Parser;

use crate::listener;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<O> {
    /// Serve a frontend.
    Serve(O),
    /// Print this text and exit.
    Print(&'static str),
}

/// `--seccomp`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// A call outside the filter kills the process.
    #[default]
    On,
    /// The process logs the call's name, then exits.
    Log,
    /// No filter.
    Off,
}

impl Seccomp {
    /// What happens on a call outside the filter; `None` without a filter.
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::On => Some(Mode::Kill),
            Self::Log => Some(Mode::Trap),
            Self::Off => None,
        }
    }
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            _ => Err(format!("--seccomp {text:?}: expected on, log or off")),
        }
    }
}

/// The parsed command line, with the options of device type `D`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options<D> {
    /// `--socket-path`
    pub socket_path: Option<PathBuf>,
    /// `--fd`
    pub fd: Option<RawFd>,
    /// `--seccomp`
    pub seccomp: Seccomp,
    /// The options of the device.
    pub device: D,
}

/// The options of a device type.
pub trait DeviceOptions: Default {
    /// What `--help` prints.
    const HELP: &'static str;
    /// What `--print-capabilities` prints (QEMU's docs/interop/vhost-user.json).
    const CAPABILITIES: &'static str;

    /// Sets an option; `value` returns its value. False if there is no option of this name.
    fn set(&mut self, name: &str, value: Value<'_>) -> Result<bool, String>;

    /// Checks that the options are consistent.
    fn check(&mut self) -> Result<(), String>;
}

/// Returns the value of an option.
pub type Value<'a> = &'a mut dyn FnMut() -> Result<OsString, String>;

/// Parses the command line, without the program's name.
pub fn parse<D: DeviceOptions>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Parsed<Options<D>>, String> {
    let mut options = Options {
        socket_path: None,
        fd: None,
        seccomp: Seccomp::default(),
        device: D::default(),
    };
    let args: Vec<_> = args.into_iter().collect();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let name = match arg {
            Long(name) => format!("--{name}"),
            Short(letter) => format!("-{letter}"),
            Arg::Value(text) => return Err(format!("unknown argument {text:?}")),
        };
        let mut value = || {
            let value = parser.value();
            value.map_err(|_| format!("{name}: a value is missing"))
        };
        match &*name {
            "--help" | "-h" => return Ok(Parsed::Print(D::HELP)),
            "--version" => return Ok(Parsed::Print(concat!(env!("CARGO_PKG_VERSION"), "\n"))),
            "--print-capabilities" => return Ok(Parsed::Print(D::CAPABILITIES)),
            "--socket-path" => options.socket_path = Some(value()?.into()),
            "--fd" => options.fd = Some(number(&name, &text_of(value()?)?)?),
            "--seccomp" => options.seccomp = text_of(value()?)?.parse()?,
            _ if options.device.set(&name, &mut value)? => {}
            _ => return Err(format!("unknown argument {name:?}")),
        }
    }
    if options.socket_path.is_some() == options.fd.is_some() {
        return Err("exactly one of --socket-path and --fd is needed".into());
    }
    options.device.check()?;
    Ok(Parsed::Serve(options))
}

impl<D> Options<D> {
    /// The inherited listener, if the command line names one. Call this first: a descriptor placed in
    /// the table would overwrite a listener that has the same number.
    pub fn inherited(&self) -> Result<Option<OwnedFd>> {
        Ok(self.fd.map(listener::inherited).transpose()?)
    }

    /// The listener for the frontend: the inherited one, or one bound now.
    pub fn listener(&self, inherited: Option<OwnedFd>) -> Result<OwnedFd> {
        match (inherited, &self.socket_path) {
            (Some(fd), _) => Ok(fd),
            (None, Some(path)) => Ok(listener::bind(path)?),
            (None, None) => bail!("--socket-path or --fd is needed"),
        }
    }
}

/// Converts an option's value to text.
pub fn text_of(value: OsString) -> Result<String, String> {
    let text = value.into_string();
    text.map_err(|value| format!("{value:?} is not text"))
}

/// Converts an option's value to a number.
pub fn number<N: FromStr>(name: &str, text: &str) -> Result<N, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{name} {text:?}: expected a number"))
}
