// SPDX-License-Identifier: Apache-2.0
//! The name of a VM, which is also the name of its state directory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A VM's name: 1 to 64 of `a-z A-Z 0-9 . _ -`, not beginning with `.` or `-`, so that it can be a
/// directory, a cgroup and a command-line argument as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 64 {
            return Err("must be 1 to 64 characters long".into());
        }
        if !text.bytes().all(legal) {
            return Err("may hold only letters, digits, '.', '_' and '-'".into());
        }
        if text.starts_with(['.', '-']) {
            return Err("must not begin with '.' or '-'".into());
        }
        Ok(Self(text.to_string()))
    }
}

impl TryFrom<String> for VmName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for VmName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VmName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A VM's name",
            "type": "string",
            "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_legal_is_accepted() {
        for name in ["a", "web-1", "Tenant_A.db", &"x".repeat(64)] {
            assert_eq!(name.parse::<VmName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn name_that_could_escape_its_directory_is_refused() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-rf",
            ".hidden",
            "a b",
            "ü",
            &"x".repeat(65),
            "a\0",
        ] {
            assert!(name.parse::<VmName>().is_err(), "{name:?}");
        }
    }
}
