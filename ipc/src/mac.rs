// SPDX-License-Identifier: Apache-2.0
//! MAC addresses, as the spec, the records and the NICs have them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A MAC address: its bytes in the order on the wire, which is also how records write it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MacAddress(pub [u8; 6]);

/// The text is not six bytes in hexadecimal, with colons between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not six bytes in hexadecimal")]
pub struct Malformed;

impl MacAddress {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// The bit of the first byte that marks a group address.
    pub const GROUP: u8 = 0x01;
    /// The bit of the first byte that marks an address as locally administered.
    pub const LOCAL: u8 = 0x02;

    /// Its bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether it is a group address.
    pub fn is_group(self) -> bool {
        self.0[0] & Self::GROUP != 0
    }

    /// Whether a NIC can have it.
    pub fn is_host(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

impl FromStr for MacAddress {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(Malformed)?;
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = match u8::from_str_radix(part, 16) {
                Ok(value) if digits => value,
                _ => return Err(Malformed),
            };
        }
        match parts.next() {
            Some(_) => Err(Malformed),
            None => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_in_a_record_is_its_six_bytes() {
        let mac = MacAddress([2, 0, 0, 0xab, 0xcd, 0xef]);
        let written = serde_json::to_string(&mac).unwrap();
        assert_eq!(written, "[2,0,0,171,205,239]");
        assert_eq!(serde_json::from_str::<MacAddress>(&written).unwrap(), mac);
    }

    #[test]
    fn address_of_a_group_or_zero_is_no_nics() {
        assert!(MacAddress([2, 0, 0, 0, 0, 1]).is_host());
        assert!(!MacAddress([0; 6]).is_host());
        assert!(!MacAddress([1, 0, 0x5e, 0, 0, 1]).is_host());
        assert!(!MacAddress::BROADCAST.is_host());
    }
}
