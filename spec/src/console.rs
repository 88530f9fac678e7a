// SPDX-License-Identifier: Apache-2.0
//! The backend of the guest's first serial port.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SpecError;
use crate::state::SOCKET_PATH_MAX_BYTES;

/// Where COM1 leads: `stdio`, `pty`, `socket`, `socket=F`, `file=F` or `none`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Console {
    /// The terminal `bulkhead run` was started from; the same as `Socket` for the VM itself.
    #[default]
    Stdio,
    /// A pseudo-terminal, whose path `bulkhead inspect` shows.
    Pty,
    /// `console.sock` in the VM's state directory; `bulkhead console` connects to it.
    Socket,
    /// A socket of the same kind at a path that the user chose.
    SocketAt(PathBuf),
    /// Output is appended to a file; there is no input.
    File(PathBuf),
    /// Nowhere: output is dropped.
    None,
}

impl FromStr for Console {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "pty" => Ok(Self::Pty),
            "socket" => Ok(Self::Socket),
            "none" => Ok(Self::None),
            _ => match text.split_once('=') {
                Some(("file", "")) => Err("the file's name is missing behind file=".into()),
                Some(("file", path)) => Ok(Self::File(path.into())),
                Some(("socket", "")) => Err("the socket's path is missing behind socket=".into()),
                Some(("socket", path)) => Ok(Self::SocketAt(path.into())),
                _ => Err("expected stdio, pty, socket, socket=F, file=F or none".into()),
            },
        }
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Pty => f.write_str("pty"),
            Self::Socket => f.write_str("socket"),
            Self::SocketAt(path) => write!(f, "socket={}", path.display()),
            Self::File(path) => write!(f, "file={}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

impl Console {
    /// Checks what can be checked without the host.
    ///
    /// # Errors
    /// When a socket's path is longer than `sockaddr_un` can hold.
    pub(crate) fn check(self) -> Result<Self, SpecError> {
        match &self {
            Self::SocketAt(path) => check_socket_path(path)?,
            Self::Stdio | Self::Pty | Self::Socket | Self::File(_) | Self::None => {}
        }
        Ok(self)
    }
}

/// Checks that clients can connect to the console's socket at `path`.
///
/// # Errors
/// When it is longer than [`SOCKET_PATH_MAX_BYTES`].
pub fn check_socket_path(path: &Path) -> Result<(), SpecError> {
    let len = path.as_os_str().len();
    if len <= SOCKET_PATH_MAX_BYTES {
        return Ok(());
    }
    let reason = format!(
        "the socket's path has {len} bytes, at most {SOCKET_PATH_MAX_BYTES} are possible: \
         choose a shorter one"
    );
    Err(SpecError::new(
        "console",
        Console::SocketAt(path.into()),
        reason,
    ))
}

impl TryFrom<String> for Console {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?}: {reason}"))
    }
}

impl From<Console> for String {
    fn from(console: Console) -> Self {
        console.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Console {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Console".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Where COM1 leads.",
            "type": "string",
            "pattern": "^(stdio|pty|socket|none|(file|socket)=.+)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_printed_parses_back() {
        for text in [
            "stdio",
            "pty",
            "socket",
            "none",
            "file=/tmp/out",
            "socket=/run/a=b.sock",
        ] {
            assert_eq!(text.parse::<Console>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn console_unknown_is_refused() {
        for text in ["", "tty", "file=", "file", "socket=", "sock=/a", "STDIO"] {
            assert!(text.parse::<Console>().is_err(), "{text}");
        }
    }

    #[test]
    fn socket_whose_path_is_too_long_is_refused_with_both_lengths() {
        let at = |len: usize| Console::SocketAt(format!("/{}", "x".repeat(len - 1)).into());
        assert!(at(SOCKET_PATH_MAX_BYTES).check().is_ok());
        let error = at(SOCKET_PATH_MAX_BYTES + 1).check().unwrap_err();
        assert_eq!(error.field, "console");
        assert!(
            error.reason.contains("has 108 bytes, at most 107"),
            "{error}"
        );
    }
}
