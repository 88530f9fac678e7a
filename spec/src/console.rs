// SPDX-License-Identifier: Apache-2.0
//! The backend of the guest's first serial port.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where COM1 leads: `stdio`, `pty`, `socket`, `file=F` or `none`.
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
            _ => match text.strip_prefix("file=") {
                Some("") => Err("the file's name is missing behind file=".into()),
                Some(path) => Ok(Self::File(path.into())),
                None => Err("expected stdio, pty, socket, file=F or none".into()),
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
            Self::File(path) => write!(f, "file={}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
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
            "pattern": "^(stdio|pty|socket|none|file=.+)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_printed_parses_back() {
        for text in ["stdio", "pty", "socket", "none", "file=/tmp/out"] {
            assert_eq!(text.parse::<Console>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn console_unknown_is_refused() {
        for text in ["", "tty", "file=", "file", "STDIO"] {
            assert!(text.parse::<Console>().is_err(), "{text}");
        }
    }
}
