// SPDX-License-Identifier: Apache-2.0
//! MAC addresses of NICs: as a spec gives them, and as they follow from names.

use ipc::mac::MacAddress;

/// A NIC's address from its text.
pub(crate) fn of_nic(text: &str) -> Result<MacAddress, String> {
    let malformed = |_| "expected six bytes in hexadecimal, such as 02:00:00:12:34:56";
    let mac: MacAddress = text.parse().map_err(malformed)?;
    match mac {
        MacAddress([0, 0, 0, 0, 0, 0]) => Err("is no card's address".into()),
        mac if mac.is_group() => {
            Err("is a multicast address: the first byte of a card's address is even".into())
        }
        mac => Ok(mac),
    }
}

/// The default address of a device: the same for the same names, and locally administered. 46
/// bits are left to keep the devices of a network apart.
pub fn derived(vm: &str, device: &str) -> MacAddress {
    // FNV-1a. The result must never change: guests configure their interfaces by it. Neither
    // name can contain the byte between them.
    let names = vm.bytes().chain([0]).chain(device.bytes());
    let hash = names.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // FNV's low bits alone hardly depend on the high bits of the last letters.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let [a, b, c, d, e, f, ..] = (mixed ^ (mixed >> 32)).to_le_bytes();
    MacAddress([a & !MacAddress::GROUP | MacAddress::LOCAL, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_written_reads_back() {
        let mac = of_nic("02:00:00:Ab:cd:EF").unwrap();
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
            let reason = of_nic(text).unwrap_err();
            assert!(reason.contains(named), "{text}: {reason}");
        }
    }

    #[test]
    fn address_derived_never_changes_and_is_a_local_one_of_a_card() {
        let of = |vm, device| derived(vm, device).to_string();
        assert_eq!(of("web", "net0"), "c2:22:ca:fa:4d:0e");
        let mut seen = std::collections::HashSet::new();
        for n in 0..5000 {
            let name = format!("vm-{n}");
            for device in ["net0", "net1"] {
                let mac = derived(&name, device);
                assert_eq!(mac.bytes()[0] & 3, MacAddress::LOCAL);
                assert!(of_nic(&mac.to_string()).is_ok());
                assert!(seen.insert(mac), "{name} {device}");
            }
        }
        assert_ne!(of("a", "bc"), of("ab", "c"));
    }
}
