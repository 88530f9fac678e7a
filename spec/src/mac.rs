// SPDX-License-Identifier: Apache-2.0
//! MAC addresses of NICs.

use std::fmt;
use std::str::FromStr;

/// The bit of the first byte that marks a group address.
const GROUP: u8 = 0x01;
/// The bit of the first byte that marks an address as locally administered.
const LOCAL: u8 = 0x02;

/// The MAC address of a NIC: neither zero nor a group address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Its bytes, in the order on the wire.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// The default address of a device: the same for the same names, and locally administered. 46
    /// bits are left to keep the devices of a network apart.
    pub fn derived(vm: &str, device: &str) -> Self {
        // FNV-1a. The result must never change: guests configure their interfaces by it. Neither
        // name can contain the byte between them.
        let names = vm.bytes().chain([0]).chain(device.bytes());
        let hash = names.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // FNV's low bits alone hardly depend on the high bits of the last letters.
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let [a, b, c, d, e, f, ..] = (mixed ^ (mixed >> 32)).to_le_bytes();
        Self([a & !GROUP | LOCAL, b, c, d, e, f])
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "expected six bytes in hexadecimal, such as 02:00:00:12:34:56";
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(malformed)?;
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = match u8::from_str_radix(part, 16) {
                Ok(value) if digits => value,
                _ => return Err(malformed().into()),
            };
        }
        match (parts.next(), bytes) {
            (Some(_), _) => Err(malformed().into()),
            (None, [0, 0, 0, 0, 0, 0]) => Err("is no card's address".into()),
            (None, [first, ..]) if first & GROUP != 0 => {
                Err("is a multicast address: the first byte of a card's address is even".into())
            }
            (None, _) => Ok(Self(bytes)),
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
    fn address_written_reads_back() {
        let mac: MacAddress = "02:00:00:Ab:cd:EF".parse().unwrap();
        assert_eq!(mac.bytes(), [2, 0, 0, 0xab, 0xcd, 0xef]);
        assert_eq!(mac.to_string(), "02:00:00:ab:cd:ef");
    }

    #[test]
    fn address_malformed_zero_or_of_a_group_is_refused() {
        for (text, named) in [
            ("", "six bytes"),
            ("02:00:00:00:00", "six bytes"),
            ("02:00:00:00:00:00:00", "six bytes"),
            ("2:0:0:0:0:1", "six bytes"),
            ("02:00:00:00:00:+1", "six bytes"),
            ("02-00-00-00-00-01", "six bytes"),
            ("02:00:00:00:00:0g", "six bytes"),
            ("00:00:00:00:00:00", "no card"),
            ("01:00:5e:00:00:01", "multicast"),
            ("ff:ff:ff:ff:ff:ff", "multicast"),
        ] {
            let reason = text.parse::<MacAddress>().unwrap_err();
            assert!(reason.contains(named), "{text}: {reason}");
        }
    }

    #[test]
    fn address_derived_never_changes_and_is_a_local_one_of_a_card() {
        let of = |vm, device| MacAddress::derived(vm, device).to_string();
        assert_eq!(of("web", "net0"), "c2:22:ca:fa:4d:0e");
        let mut seen = std::collections::HashSet::new();
        for n in 0..5000 {
            let name = format!("vm-{n}");
            for device in ["net0", "net1"] {
                let mac = MacAddress::derived(&name, device);
                assert_eq!(mac.bytes()[0] & (GROUP | LOCAL), LOCAL);
                assert!(mac.to_string().parse::<MacAddress>().is_ok());
                assert!(seen.insert(mac), "{name} {device}");
            }
        }
        assert_ne!(of("a", "bc"), of("ab", "c"));
    }
}
