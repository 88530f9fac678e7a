// SPDX-License-Identifier: Apache-2.0
//! How a VM has ended: the record that is kept of it, in [`crate::state::ENDED`].

use serde::{Deserialize, Serialize};

pub use ipc::broker::Reason;

use crate::VmName;
use crate::state::ENDED_MAX_BYTES;

/// The longest detail, in bytes: even with every byte escaped the record stays below
/// [`ENDED_MAX_BYTES`].
const DETAIL_MAX_BYTES: usize = 400;

/// How a VM has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The VM's name.
    pub name: VmName,
    /// Why it ended.
    pub reason: Reason,
    /// The exit status of its jailer, and so of `bulkhead run`; left out if that was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// More about it, one line; may be empty.
    #[serde(default)]
    pub detail: String,
    /// When its jailer had started, in seconds since 1970; left out if that was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_s: Option<u64>,
    /// When it ended or, if its jailer was killed, was found so; in seconds since 1970.
    pub ended_unix_s: u64,
    /// The boot of the host in which that was (random/boot_id of proc(5)): of an earlier one nothing
    /// is told any more.
    pub boot: String,
}

impl Ended {
    /// The record's bytes, at most [`ENDED_MAX_BYTES`].
    pub fn to_json(&self) -> Vec<u8> {
        let mut clipped = self.clone();
        let len = clipped.detail.floor_char_boundary(DETAIL_MAX_BYTES);
        clipped.detail.truncate(len);
        // Cannot fail: all fields are text and numbers.
        serde_json::to_vec(&clipped).unwrap_or_default()
    }

    /// Reads a record of this boot of the host; `None` if it is none.
    pub fn from_json(text: &[u8], boot: &str) -> Option<Self> {
        if text.len() > ENDED_MAX_BYTES {
            return None;
        }
        let ended: Self = serde_json::from_slice(text).ok()?;
        (ended.boot == boot).then_some(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(detail: String) -> Ended {
        Ended {
            name: "x".repeat(64).parse().unwrap(),
            reason: Reason::RebootStorm,
            status: Some(3),
            detail,
            started_unix_s: Some(u64::MAX),
            ended_unix_s: u64::MAX,
            boot: "b".into(),
        }
    }

    #[test]
    fn record_written_reads_back_in_the_same_boot_only() {
        let ended = ended("it reset itself".into());
        let text = ended.to_json();
        assert_eq!(Ended::from_json(&text, "b"), Some(ended));
        assert_eq!(Ended::from_json(&text, "c"), None);
    }

    #[test]
    fn record_is_short_whatever_its_detail_and_a_long_one_is_none() {
        for filler in ["\u{1}", "\u{10ffff}", "\"", "x"] {
            let text = ended(filler.repeat(10_000)).to_json();
            assert!(text.len() <= ENDED_MAX_BYTES, "{filler:?}");
            assert!(Ended::from_json(&text, "b").is_some(), "{filler:?}");
        }
        let mut long = ended(String::new()).to_json();
        long.resize(ENDED_MAX_BYTES + 1, b' ');
        assert_eq!(Ended::from_json(&long, "b"), None);
        assert_eq!(Ended::from_json(b"", "b"), None);
    }
}
