// SPDX-License-Identifier: Apache-2.0
//! The users that a VM's processes run as.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The last user id; 2^32 - 1 means none.
const LAST: u32 = u32::MAX - 1;

/// A range of user ids, which are group ids too, for one VM alone: `FIRST:COUNT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UidRange {
    /// The first one, not 0.
    pub first: u32,
    /// How many, not 0.
    pub count: u32,
}

impl FromStr for UidRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let numbers =
            parts.and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
        match numbers {
            None => Err("expected FIRST:COUNT".into()),
            Some((0, _)) => Err("must not hold user 0, which is root".into()),
            Some((_, 0)) => Err("is empty".into()),
            Some((first, count)) if first.checked_add(count - 1).is_none_or(|n| n > LAST) => {
                Err(format!("goes beyond the last user, {LAST}"))
            }
            Some((first, count)) => Ok(Self { first, count }),
        }
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.count)
    }
}

impl TryFrom<String> for UidRange {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?}: {reason}"))
    }
}

impl From<UidRange> for String {
    fn from(range: UidRange) -> Self {
        range.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for UidRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "UidRange".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A range of user ids for one VM alone, FIRST:COUNT",
            "type": "string",
            "pattern": "^[1-9][0-9]*:[1-9][0-9]*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_written_reads_back() {
        let range: UidRange = "100000:64".parse().unwrap();
        assert_eq!((range.first, range.count), (100_000, 64));
        assert_eq!(range.to_string(), "100000:64");
        assert!("4294967294:1".parse::<UidRange>().is_ok());
    }

    #[test]
    fn range_of_root_empty_or_beyond_the_end_is_refused() {
        for text in ["", "7", "0:5", "5:0", "4294967294:2", "-1:2", "a:b"] {
            assert!(text.parse::<UidRange>().is_err(), "{text}");
        }
    }
}
