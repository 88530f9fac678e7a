// SPDX-License-Identifier: Apache-2.0
//! The command line of a backend that runs alone: the conventions of vhost-user backend programs
//! (vhost-user specification, "Backend programs"). What a kind of device has beyond them is its own.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::listener;
use crate::program::{Parsed, Seccomp};

/// The command line, with what `D` makes of the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options<D> {
    /// `--socket-path`
    pub socket_path: Option<PathBuf>,
    /// `--fd`
    pub fd: Option<RawFd>,
    /// `--seccomp`
    pub seccomp: Seccomp,
    /// What is said of the device.
    pub device: D,
}

/// What is said of a device of some kind.
pub trait DeviceOptions: Default {
    /// What `--help` answers.
    const HELP: &'static str;
    /// What `--print-capabilities` answers (QEMU's docs/interop/vhost-user.json).
    const CAPABILITIES: &'static str;

    /// Takes an option, whose value `value` gives. Whether there is one of this name.
    fn set(&mut self, name: &str, value: Value<'_>) -> Result<bool, String>;

    /// Sees to it that the whole makes sense.
    fn check(&mut self) -> Result<(), String>;
}

/// Gives the value of an option.
pub type Value<'a> = &'a mut dyn FnMut() -> Result<OsString, String>;

/// Understands the command line, without the program's name.
pub fn parse<D: DeviceOptions>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Parsed<Options<D>>, String> {
    let mut options = Options {
        socket_path: None,
        fd: None,
        seccomp: Seccomp::default(),
        device: D::default(),
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(OsString::from(value))),
            _ => (text, None),
        };
        let mut value = || {
            let value = inline.clone().or_else(|| args.next());
            value.ok_or(format!("{name}: a value is missing"))
        };
        match name {
            "--help" | "-h" => return Ok(Parsed::Print(D::HELP)),
            "--version" => return Ok(Parsed::Print(concat!(env!("CARGO_PKG_VERSION"), "\n"))),
            "--print-capabilities" => return Ok(Parsed::Print(D::CAPABILITIES)),
            "--socket-path" => options.socket_path = Some(value()?.into()),
            "--fd" => options.fd = Some(number(name, &text_of(value()?)?)?),
            "--seccomp" => options.seccomp = text_of(value()?)?.parse()?,
            _ if options.device.set(name, &mut value)? => {}
            _ => return Err(format!("unknown argument {arg:?}")),
        }
    }
    if options.socket_path.is_some() == options.fd.is_some() {
        return Err("exactly one of --socket-path and --fd is needed".into());
    }
    options.device.check()?;
    Ok(Parsed::Serve(options))
}

impl<D> Options<D> {
    /// The inherited listener, if one is named. To be taken first: whatever is opened later must not
    /// take a number of the table that it has.
    pub fn inherited(&self) -> Result<Option<OwnedFd>> {
        Ok(self.fd.map(listener::inherited).transpose()?)
    }

    /// Where the frontend connects: what was inherited, or a socket that is made now.
    pub fn listener(&self, inherited: Option<OwnedFd>) -> Result<OwnedFd> {
        match (inherited, &self.socket_path) {
            (Some(fd), _) => Ok(fd),
            (None, Some(path)) => Ok(listener::bind(path)?),
            (None, None) => bail!("--socket-path or --fd is needed"),
        }
    }
}

/// The value of an option that is text.
pub fn text_of(value: OsString) -> Result<String, String> {
    let text = value.into_string();
    text.map_err(|value| format!("{value:?} is not text"))
}

/// The value of an option that is a number.
pub fn number<N: FromStr>(name: &str, text: &str) -> Result<N, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{name} {text:?}: expected a number"))
}
