// SPDX-License-Identifier: Apache-2.0
//! Sizes in bytes, as users write them: `512M`, `4G`, or a plain number of bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes. Parses `4096`, `512K`, `512M`, `4G`, `1T` (powers of 1024, either case,
/// an optional `iB` behind the letter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text
            .strip_suffix("iB")
            .or_else(|| text.strip_suffix("ib"))
            .unwrap_or(text);
        let (digits, shift) = match plain.chars().last().map(|c| c.to_ascii_uppercase()) {
            Some(last) if last.is_ascii_alphabetic() => {
                let unit = UNITS.iter().find(|(letter, _)| *letter == last);
                let (_, shift) =
                    unit.ok_or_else(|| "unknown unit, expected K, M, G or T".to_string())?;
                (&plain[..plain.len() - 1], *shift)
            }
            _ if plain.len() != text.len() => return Err("a unit is missing before iB".into()),
            _ => (plain, 0),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err("expected a size such as 512M, 4G or a number of bytes".into());
        }
        let number: u64 = digits.parse().map_err(|_| "too large".to_string())?;
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| "too large".into())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS.iter().rev() {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{letter}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"512M\" or a number of bytes")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse()
                    .map_err(|reason| E::custom(format!("{text:?}: {reason}")))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number of bytes, or a string such as \"512M\" (K, M, G, T: powers of 1024).",
            "oneOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+([KMGTkmgt]([iI][bB])?)?$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_with_units_parses_to_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("4g", 4 << 30),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn size_malformed_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "1.5G",
            "12Q",
            "4iB",
            "99999999999999999999",
            "16777216T",
            " 1M",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn size_printed_parses_back() {
        for bytes in [0, 1, 1024, 1 << 20, (1 << 20) + 4096, 9 << 29] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
