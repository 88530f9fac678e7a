// SPDX-License-Identifier: Apache-2.0
//! Models of an x86-64 processor: what the host has, or a level of the psABI, with single features on
//! and off. Written `x86-64-v2,+aes,-rdrand`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod features;

use features::{BASE, LEVEL_2, LEVEL_3, SPARED, find, names, needs};

/// What a model begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    /// All that the host has.
    #[default]
    Host,
    /// The second level of the psABI.
    V2,
    /// The third level of the psABI.
    V3,
}

impl Level {
    const ALL: [(&'static str, Self); 3] = [
        ("host", Self::Host),
        ("x86-64-v2", Self::V2),
        ("x86-64-v3", Self::V3),
    ];

    fn features(self) -> Vec<&'static str> {
        match self {
            Self::Host => Vec::new(),
            Self::V2 => [BASE, LEVEL_2].concat(),
            Self::V3 => [BASE, LEVEL_2, LEVEL_3].concat(),
        }
    }
}

/// A model of a processor, valid: it has what its features need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuModel {
    level: Level,
    plus: Vec<&'static str>,
    minus: Vec<&'static str>,
}

impl CpuModel {
    /// Whether it is all that the host has, and nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it begins with all that the host has.
    pub fn is_of_host(&self) -> bool {
        self.level == Level::Host
    }

    /// The features that are off: those that the user switched off, and what needs them.
    pub fn off(&self) -> BTreeSet<&'static str> {
        let mut off: BTreeSet<_> = self.minus.iter().copied().collect();
        loop {
            let lost = names().filter(|name| needs(name).any(|needed| off.contains(needed)));
            let lost: Vec<_> = lost.filter(|name| !off.contains(name)).collect();
            if lost.is_empty() {
                return off;
            }
            off.extend(lost);
        }
    }

    /// The features that the guest has in any case, so that the host must have them.
    pub fn required(&self) -> BTreeSet<&'static str> {
        let is_spared = |name: &&'static str| SPARED.contains(name) && !self.plus.contains(name);
        let features = self.features().into_iter();
        features.filter(|name| !is_spared(name)).collect()
    }

    /// The features of the level and of the flags. With a level they are all that the guest has.
    pub fn features(&self) -> BTreeSet<&'static str> {
        let off = self.off();
        let level = self.level.features().into_iter();
        let all = level.chain(self.plus.iter().copied());
        all.filter(|name| !off.contains(name)).collect()
    }

    fn check(&self) -> Result<(), String> {
        let is_needed = |name: &&&'static str| BASE.contains(*name) && !SPARED.contains(*name);
        if let Some(name) = self.minus.iter().find(is_needed) {
            return Err(format!("-{name}: no guest of x86-64 runs without it"));
        }
        let off = self.off();
        if let Some(name) = self.plus.iter().find(|name| off.contains(*name)) {
            return Err(format!("+{name}: it is off, or what it needs is"));
        }
        let has = self.features();
        for name in &self.plus {
            let missing = needs(name).find(|needed| !self.is_of_host() && !has.contains(needed));
            if let Some(needed) = missing {
                return Err(format!("+{name} needs {needed}: add +{needed}"));
            }
        }
        Ok(())
    }
}

/// What a model is.
const EXPECTED: &str = "expected host, x86-64-v2 or x86-64-v3, and then any of +FEATURE and -FEATURE, \
                        separated by commas (the number of vCPUs is --cpus)";

impl FromStr for CpuModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let first = parts.next().unwrap_or_default();
        let level = Level::ALL.iter().find(|(name, _)| *name == first);
        let (_, level) = level.ok_or(EXPECTED)?;
        let mut model = Self {
            level: *level,
            ..Self::default()
        };
        for part in parts {
            let (list, name) = match part.split_at_checked(1) {
                Some(("+", name)) => (&mut model.plus, name),
                Some(("-", name)) => (&mut model.minus, name),
                _ => return Err(format!("{part:?}: expected +FEATURE or -FEATURE")),
            };
            list.push(named(name)?);
        }
        model.check()?;
        Ok(model)
    }
}

/// The feature of this name; other spellings of it are understood.
fn named(name: &str) -> Result<&'static str, String> {
    let tidied = name.to_ascii_lowercase().replace(['-', '.'], "_");
    find(&tidied).ok_or_else(|| {
        let nearest = names().min_by_key(|known| distance(&tidied, known));
        let nearest = nearest.unwrap_or_default();
        format!("there is no feature {name:?}: the nearest is {nearest}")
    })
}

/// How many letters must be changed, added or removed to make one name of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.bytes().enumerate().take(64) {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, of_b) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(of_a != of_b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Level::ALL.iter().find(|(_, level)| *level == self.level);
        f.write_str(named.map_or("host", |(name, _)| name))?;
        self.plus
            .iter()
            .try_for_each(|name| write!(f, ",+{name}"))?;
        self.minus.iter().try_for_each(|name| write!(f, ",-{name}"))
    }
}

impl TryFrom<String> for CpuModel {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?}: {reason}"))
    }
}

impl From<CpuModel> for String {
    fn from(model: CpuModel) -> Self {
        model.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> CpuModel {
        text.parse().unwrap()
    }

    #[test]
    fn model_is_a_level_and_what_was_switched_on_and_off() {
        assert!(model("host").is_default() && model("host").required().is_empty());
        let second = model("x86-64-v2,+AES,-popcnt").required();
        assert!(second.contains("aes") && second.contains("sse4_2"));
        assert!(!second.contains("popcnt") && !second.contains("avx"));
        assert!(model("x86-64-v3").required().contains("avx2"));
        let (third, asked) = (model("x86-64-v3"), model("x86-64-v3,+vme"));
        assert!(third.features().contains("vme") && !third.required().contains("vme"));
        assert!(asked.required().contains("vme"));
        assert!(!model("x86-64-v3,-vme").features().contains("vme"));
    }

    #[test]
    fn what_needs_a_feature_goes_with_it() {
        let off = model("host,-avx").off();
        for name in ["avx", "avx2", "fma", "avx512f", "avx512_vnni", "vaes"] {
            assert!(off.contains(name), "{name}");
        }
        assert!(!off.contains("sse4_2") && !off.contains("xsave"));
        assert!(!model("x86-64-v3,-xsave").required().contains("fma"));
    }

    #[test]
    fn other_spellings_are_understood_and_the_table_s_is_written() {
        for (text, tidied) in [
            ("x86-64-v2,+lzcnt", "x86-64-v2,+abm"),
            ("host,-sse4.2,+sse3", "host,+pni,-sse4_2"),
            ("host", "host"),
        ] {
            assert_eq!(model(text).to_string(), tidied);
            assert_eq!(model(tidied), model(text));
        }
    }

    #[test]
    fn what_makes_no_model_is_refused_with_the_way_out() {
        for (text, told) in [
            ("", "x86-64-v2"),
            ("x86-64-v4", "x86-64-v3"),
            ("host,aes", "+FEATURE"),
            ("host,", "+FEATURE"),
            ("host,+avx3", "nearest is avx"),
            ("host,-rdrnd", "nearest is rdrand"),
            ("host,+\u{e9}", "nearest"),
            ("x86-64-v2,+avx2", "add +avx"),
            ("host,-avx,+avx2", "is off"),
            ("x86-64-v2,-sse2", "runs without"),
        ] {
            let reason = text.parse::<CpuModel>().unwrap_err();
            assert!(reason.contains(told), "{text}: {reason}");
        }
    }
}
