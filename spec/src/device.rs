// SPDX-License-Identifier: Apache-2.0
//! What devices have in common: names, queues, and options separated by commas.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{SpecError, VmName};

/// The name of a power button that is a device of its own.
pub const POWER_BUTTON_ID: &str = "power-button";
/// The most devices a VM may have, beside a power button.
pub const DEVICES_MAX: usize = 24;
/// The most queues a device may have.
pub const QUEUES_MAX: u32 = 16;
/// The longest name of a device, in bytes: what the kernel keeps of a thread's name.
pub const DEVICE_ID_MAX_BYTES: usize = 15;

/// A device's name, unique in its VM: 1 to 15 of `a-z A-Z 0-9 . _ -`, not beginning with `.` or
/// `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that a spec gives, or the default one: `prefix` and the device's number.
    pub(crate) fn given_or(
        field: &'static str,
        given: Option<String>,
        prefix: &str,
        number: usize,
    ) -> Result<Self, SpecError> {
        let text = given.unwrap_or_else(|| format!("{prefix}{number}"));
        let parsed = text.parse();
        parsed.map_err(|reason: String| SpecError::new(field, text, reason))
    }
}

impl FromStr for DeviceId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > DEVICE_ID_MAX_BYTES {
            return Err(format!(
                "must be at most {DEVICE_ID_MAX_BYTES} characters long"
            ));
        }
        text.parse::<VmName>().map(|_| Self(text.into()))
    }
}

impl TryFrom<String> for DeviceId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a number of queues.
pub(crate) fn check_queues(field: &'static str, queues: u32) -> Result<u16, SpecError> {
    match u16::try_from(queues) {
        Ok(n) if (1..=QUEUES_MAX).contains(&queues) => Ok(n),
        _ => Err(SpecError::new(
            field,
            queues,
            format!("must be 1 to {QUEUES_MAX}"),
        )),
    }
}

/// Checks the size of a queue.
pub(crate) fn check_queue_size(field: &'static str, size: u32) -> Result<u16, SpecError> {
    match u16::try_from(size) {
        Ok(n) if n.is_power_of_two() && (16..=1024).contains(&n) => Ok(n),
        _ => Err(SpecError::new(
            field,
            size,
            "must be a power of two from 16 to 1024",
        )),
    }
}

/// Checks that no two devices have the same name.
pub(crate) fn check_unique<'a>(
    ids: impl Iterator<Item = (&'static str, &'a DeviceId)>,
) -> Result<(), SpecError> {
    let mut seen = std::collections::HashSet::new();
    for (field, id) in ids {
        if id.as_str() == POWER_BUTTON_ID {
            return Err(SpecError::new(field, id, "is the id of the power button"));
        }
        if !seen.insert(id) {
            return Err(SpecError::new(field, id, "is the id of another device"));
        }
    }
    Ok(())
}

/// Splits `key=value,key` at its commas and refuses a key that comes twice. A comma in a value is
/// written twice, see [`unescaped`].
pub(crate) fn options(text: &str) -> Result<Vec<(&str, Option<&str>)>, String> {
    options_with(text, &[])
}

/// Like [`options`], but the keys of `lists` may come again.
pub(crate) fn options_with<'a>(
    text: &'a str,
    lists: &[&str],
) -> Result<Vec<(&'a str, Option<&'a str>)>, String> {
    let mut options: Vec<(&str, Option<&str>)> = Vec::new();
    for part in parts(text) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (part, None),
        };
        if !lists.contains(&key) && options.iter().any(|(other, _)| *other == key) {
            return Err(format!("{key} is given twice"));
        }
        options.push((key, value));
    }
    Ok(options)
}

/// Splits at single commas. Of three commas in a row the first two are one comma of the value.
fn parts(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut parts, mut from, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b',', Some(b',')) => at += 2,
            (b',', _) => {
                parts.push(&text[from..at]);
                at += 1;
                from = at;
            }
            _ => at += 1,
        }
    }
    parts.push(&text[from..]);
    parts
}

/// The value without the escape: `,,` is a comma.
pub(crate) fn unescaped(value: &str) -> String {
    value.replace(",,", ",")
}

/// The value with its commas escaped, as an option.
pub(crate) fn escaped(value: impl fmt::Display) -> String {
    value.to_string().replace(',', ",,")
}

/// The error for an unknown key.
pub(crate) fn unknown(key: &str, whose: &str) -> String {
    let part = key.split_once('=').map_or(key, |(key, _)| key);
    format!(
        "{part:?} is not an option of {whose} (a comma in a value is written twice: path=/a,,b)"
    )
}

/// Parses the number that a key has.
pub(crate) fn number(key: &str, text: &str) -> Result<u32, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{key} {text:?}: expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_legal_is_accepted_and_others_are_refused() {
        assert!("disk0".parse::<DeviceId>().is_ok());
        for text in ["", "a/b", "-a", "sixteen-letters-"] {
            assert!(text.parse::<DeviceId>().is_err(), "{text}");
        }
    }

    #[test]
    fn options_given_twice_are_refused() {
        assert_eq!(
            options("path=a=b,direct").unwrap(),
            [("path", Some("a=b")), ("direct", None)]
        );
        assert!(options("queues=1,queues=2").is_err());
    }

    #[test]
    fn comma_written_twice_is_one_of_the_value() {
        for (text, expected) in [
            ("path=/a,,b,direct", &["/a,b"][..]),
            ("path=/a,,,direct", &["/a,"]),
            ("path=,,,,", &[",,"]),
        ] {
            let options = options(text).unwrap();
            let values: Vec<_> = options.iter().filter_map(|(_, v)| *v).collect();
            let values: Vec<_> = values.into_iter().map(unescaped).collect();
            assert_eq!(values, expected, "{text}");
            assert_eq!(escaped(expected[0]), text[5..].trim_end_matches(",direct"));
        }
    }
}
