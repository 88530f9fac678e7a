// SPDX-License-Identifier: Apache-2.0
//! Where the VM's control groups are, if a manager decides that.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the VM's control groups are: `inherit`, or the path of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cgroup {
    /// Nowhere: every process stays in the group that the jailer was started in.
    Inherit,
    /// Below this group, which exists: as `/proc/PID/cgroup` names it, or its directory.
    Below(PathBuf),
}

impl FromStr for Cgroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "inherit" {
            return Ok(Self::Inherit);
        }
        let path = Path::new(text);
        // The state directory lists directories of groups line by line.
        if !path.is_absolute() || text.chars().any(char::is_control) {
            return Err(
                "expected inherit, or the path of a control group, as /proc/PID/cgroup \
                        names it"
                    .into(),
            );
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err("must not hold ..".into());
        }
        Ok(Self::Below(path.components().collect()))
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("inherit"),
            Self::Below(path) => path.display().fmt(f),
        }
    }
}

impl TryFrom<String> for Cgroup {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?}: {reason}"))
    }
}

impl From<Cgroup> for String {
    fn from(cgroup: Cgroup) -> Self {
        cgroup.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Cgroup {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cgroup".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Where the VM's control groups are: inherit, or the path of a group",
            "type": "string",
            "pattern": "^(inherit|/.*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_written_reads_back() {
        for text in ["inherit", "/", "/machine.slice/a b"] {
            assert_eq!(text.parse::<Cgroup>().unwrap().to_string(), text);
        }
        let tidied = "/a//b/./".parse::<Cgroup>();
        assert_eq!(tidied, Ok(Cgroup::Below("/a/b".into())));
    }

    #[test]
    fn what_is_no_group_is_refused() {
        for text in ["", "own", "a/b", "/a/../b", "/a\nb"] {
            assert!(text.parse::<Cgroup>().is_err(), "{text:?}");
        }
    }
}
