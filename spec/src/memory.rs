// SPDX-License-Identifier: Apache-2.0
//! Guest memory: how much, of what pages, and when the host provides them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, SpecError};

/// The page size guest memory comes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum HugePages {
    /// The base page size.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Transparent huge pages where the kernel finds them.
    #[serde(rename = "thp")]
    Transparent,
    /// hugetlb pages of 2 MiB, reserved by the administrator.
    #[serde(rename = "2M")]
    Size2M,
    /// hugetlb pages of 1 GiB, reserved by the administrator.
    #[serde(rename = "1G")]
    Size1G,
}

impl HugePages {
    /// What a guest's memory must be a multiple of, in bytes.
    pub fn granule_bytes(self) -> u64 {
        match self {
            Self::None | Self::Transparent => 4 << 10,
            Self::Size2M => 2 << 20,
            Self::Size1G => 1 << 30,
        }
    }
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "thp" => Ok(Self::Transparent),
            "2M" => Ok(Self::Size2M),
            "1G" => Ok(Self::Size1G),
            _ => Err("expected none, thp, 2M or 1G".into()),
        }
    }
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Transparent => "thp",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        })
    }
}

/// Guest memory, validated: not zero, a whole number of its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    size: ByteSize,
    huge_pages: HugePages,
    prefault: bool,
    node: Option<u32>,
}

/// The least memory a VM may have: the boot structures and a small kernel fit.
pub(crate) const MEM_MIN: ByteSize = ByteSize(2 << 20);
/// The most memory a VM may have: well below the 46 address bits of the smallest server CPUs.
pub(crate) const MEM_MAX: ByteSize = ByteSize(16 << 40);

impl Memory {
    /// Checks a size against its page size.
    pub fn new(size: ByteSize, huge_pages: HugePages, prefault: bool) -> Result<Self, SpecError> {
        let granule = ByteSize(huge_pages.granule_bytes());
        if size < MEM_MIN || size > MEM_MAX {
            return Err(SpecError::new(
                "mem",
                size,
                format!("must be {MEM_MIN} to {MEM_MAX}"),
            ));
        }
        if !size.0.is_multiple_of(granule.0) {
            let reason = format!("must be a multiple of the page size, {granule}");
            return Err(SpecError::new("mem", size, reason));
        }
        Ok(Self {
            size,
            huge_pages,
            prefault,
            node: None,
        })
    }

    /// The same from one node of the host.
    #[must_use]
    pub(crate) fn on_node(self, node: Option<u32>) -> Self {
        Self { node, ..self }
    }

    /// The node of the host that it comes from, if the user says so.
    pub fn node(&self) -> Option<u32> {
        self.node
    }

    /// The size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size.0
    }

    /// The page size.
    pub fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    /// Whether every page is allocated before the guest starts.
    pub fn prefault(&self) -> bool {
        self.prefault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_whole_pages_is_accepted() {
        for (size, pages) in [
            (2 << 20, HugePages::None),
            ((128 << 20) + 4096, HugePages::Transparent),
            (130 << 20, HugePages::Size2M),
            (5 << 30, HugePages::Size1G),
        ] {
            assert!(Memory::new(ByteSize(size), pages, false).is_ok());
        }
    }

    #[test]
    fn memory_zero_partial_or_absurd_is_refused_by_name() {
        for (size, pages) in [
            (0, HugePages::None),
            (4096, HugePages::None),
            ((128 << 20) + 1, HugePages::None),
            (129 << 20, HugePages::Size2M),
            (1536 << 20, HugePages::Size1G),
            (u64::MAX, HugePages::None),
        ] {
            let error = Memory::new(ByteSize(size), pages, false).unwrap_err();
            assert_eq!(error.field, "mem");
            assert_eq!(error.value, ByteSize(size).to_string());
        }
    }
}
