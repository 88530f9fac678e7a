// SPDX-License-Identifier: Apache-2.0
//! Every receive mode, alone and with those that it meets: what a driver has acknowledged and asked
//! for, and which frames it gets.
use ipc::record::Guard;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ,
};

use ipc::mac::MacAddress;

use super::TABLE_MAX;
use crate::config::Nic;
use crate::ctrl_commands::Command;
use crate::settings::Settings;
use crate::state::State;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LISTED: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const OTHER_GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 2];

/// Each frame's name, its destination and what follows the source. VLAN 7 is the one that is added.
const FRAMES: [(&str, [u8; 6], &[u8]); 12] = [
    ("own", OWN, &IP),
    ("listed", LISTED, &IP),
    ("other", OTHER, &IP),
    ("group", GROUP, &IP),
    ("other-group", OTHER_GROUP, &IP),
    ("everybody", [0xff; 6], &IP),
    ("vlan", OWN, &[0x81, 0, 0xe0, 7]),
    ("other-vlan", OWN, &[0x81, 0, 0xe0, 8]),
    ("priority", OWN, &[0x81, 0, 0xe0, 0]),
    ("vlan-other", OTHER, &[0x81, 0, 0, 7]),
    ("other-vlan-group", GROUP, &[0x81, 0, 0, 8]),
    ("service-vlan", OWN, &[0x88, 0xa8, 0, 8]),
];
const IP: [u8; 2] = [8, 0];

const CONTROL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
const RX: u64 = CONTROL | 1 << VIRTIO_NET_F_CTRL_RX;
const EXTRA: u64 = RX | 1 << VIRTIO_NET_F_CTRL_RX_EXTRA;
const VLAN: u64 = 1 << VIRTIO_NET_F_CTRL_VLAN;
const ALL: u64 = EXTRA | VLAN;

/// Commands.
const NOT_PROMISCUOUS: &[u8] = &[0, 0, 0];
const PROMISCUOUS: &[u8] = &[0, 0, 1];
const ALL_MULTICAST: &[u8] = &[0, 1, 1];
const ALL_UNICAST: &[u8] = &[0, 2, 1];
const NO_MULTICAST: &[u8] = &[0, 3, 1];
const NO_UNICAST: &[u8] = &[0, 4, 1];
const NO_BROADCAST: &[u8] = &[0, 5, 1];
const ADD_VLAN: &[u8] = &[2, 0, 7, 0];
const REMOVE_VLAN: &[u8] = &[2, 1, 7, 0];
const NEW_ADDRESS: &[u8] = &[1, 1, 2, 0, 0, 0, 0, 3];
const TABLES: &[u8] = &[
    1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 2, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1,
];
const NO_TABLES: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything but what is in a VLAN that was not added.
const UNTAGGED: &str = "own listed other group other-group everybody service-vlan";
const EVERYTHING: &str = "own listed other group other-group everybody vlan other-vlan priority \
    vlan-other other-vlan-group service-vlan";

/// The names of the frames that a driver gets.
fn received(nic: &Nic, features: u64, commands: &[&[u8]]) -> Vec<&'static str> {
    let mut state = State::default();
    for bytes in commands {
        let command = Command::parse(bytes).unwrap();
        command.check(nic, features).unwrap();
        command.apply(&mut state);
    }
    let filter = Settings::new(nic, features, &state, true).filter;
    let is_wanted = |(_, destination, rest): &(&str, [u8; 6], &[u8])| {
        let frame = [destination, &OTHER[..], rest, &[0; 46]].concat();
        filter.wants(&frame)
    };
    let wanted = FRAMES.iter().filter(|frame| is_wanted(frame));
    wanted.map(|(name, ..)| *name).collect()
}

fn nic(mac: Option<MacAddress>) -> Nic {
    Nic {
        mac,
        mtu: None,
        pairs: 1,
        queue_size: 256,
        uso: false,
        guard: Guard {
            mac: false,
            ..Guard::default()
        },
    }
}

/// What a driver has acknowledged and asked for, which frames it gets, and why.
type Row = (u64, &'static [&'static [u8]], &'static str, &'static str);

fn expect(nic: &Nic, rows: &[Row]) {
    for (features, commands, expected, reason) in rows {
        let got = received(nic, *features, commands);
        let expected: Vec<_> = expected.split_whitespace().collect();
        assert_eq!(got, expected, "{reason}: {commands:?}");
    }
}

#[test]
fn driver_gets_everything_before_it_asks_and_in_promiscuous_mode() {
    expect(
        &nic(Some(MacAddress(OWN))),
        &[
            (0, &[], EVERYTHING, "no control queue: nothing can be asked"),
            (ALL, &[], EVERYTHING, "nothing was asked yet"),
            (ALL, &[PROMISCUOUS], EVERYTHING, "promiscuous, as asked"),
            (
                ALL,
                &[NOT_PROMISCUOUS, PROMISCUOUS],
                EVERYTHING,
                "promiscuous mode goes before the VLANs (§5.1.6.5.1)",
            ),
            (
                ALL,
                &[ADD_VLAN],
                EVERYTHING,
                "a VLAN does not end promiscuous mode",
            ),
            (
                ALL,
                &[TABLES, NEW_ADDRESS],
                EVERYTHING,
                "nor do addresses: the driver has not switched it off",
            ),
            (
                ALL,
                &[NO_UNICAST, NO_MULTICAST, NO_BROADCAST],
                EVERYTHING,
                "nor other modes: \"all incoming packets\"",
            ),
            (
                CONTROL | VLAN,
                &[NOT_PROMISCUOUS, TABLES, ADD_VLAN],
                EVERYTHING,
                "without CTRL_RX promiscuous mode cannot be left",
            ),
        ],
    );
}

#[test]
fn driver_that_left_promiscuous_mode_gets_its_own_addresses_groups_and_vlans() {
    expect(
        &nic(Some(MacAddress(OWN))),
        &[
            (
                RX,
                &[NOT_PROMISCUOUS],
                "own everybody vlan other-vlan priority service-vlan",
                "its own address and everybody's; without CTRL_VLAN all VLANs",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS],
                "own everybody service-vlan",
                "with CTRL_VLAN none, but for tags that the filter does not know",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ADD_VLAN],
                "own everybody vlan service-vlan",
                "the VLAN that was added, and only for its own address",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ADD_VLAN, REMOVE_VLAN],
                "own everybody service-vlan",
                "a VLAN that was added and removed",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, TABLES],
                "own listed group everybody service-vlan",
                "addresses and groups of its tables",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, TABLES, NO_TABLES],
                "own everybody service-vlan",
                "tables are replaced as a whole",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, NEW_ADDRESS, ADD_VLAN],
                "other everybody vlan-other",
                "another own address, in place of the first",
            ),
        ],
    );
}

#[test]
fn modes_for_all_open_the_filter_for_their_kind_alone() {
    expect(
        &nic(Some(MacAddress(OWN))),
        &[
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_MULTICAST],
                "own group other-group everybody service-vlan",
                "all groups",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_UNICAST],
                "own listed other everybody service-vlan",
                "all unicast",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_MULTICAST, ALL_UNICAST],
                UNTAGGED,
                "all of both is not promiscuous: the VLANs count",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_UNICAST, ADD_VLAN],
                "own listed other everybody vlan vlan-other service-vlan",
                "all unicast in the VLAN that was added",
            ),
        ],
    );
}

#[test]
fn modes_for_none_close_the_filter_for_their_kind_and_go_before_those_for_all() {
    expect(
        &nic(Some(MacAddress(OWN))),
        &[
            (
                ALL,
                &[NOT_PROMISCUOUS, TABLES, NO_MULTICAST],
                "own listed everybody service-vlan",
                "no groups, but everybody",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, TABLES, NO_UNICAST],
                "group everybody",
                "no unicast, not even its own",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, TABLES, NO_BROADCAST],
                "own listed group service-vlan",
                "not everybody's",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_MULTICAST, NO_MULTICAST],
                "own everybody service-vlan",
                "no groups goes before all of them",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_UNICAST, NO_UNICAST],
                "everybody",
                "no unicast goes before all of it",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, ALL_MULTICAST, NO_BROADCAST],
                "own group other-group service-vlan",
                "everybody is no group of the modes for groups",
            ),
            (
                RX,
                &[NOT_PROMISCUOUS, NO_UNICAST],
                "everybody",
                "a driver that asks without RX_EXTRA breaks a rule and is obeyed",
            ),
        ],
    );
}

/// Tables with so many addresses and groups, none of them of a frame.
fn tables(unicast: u32, multicast: u32) -> &'static [u8] {
    let mut command = vec![1, 0];
    for (count, first) in [(unicast, 2), (multicast, 3)] {
        command.extend(count.to_le_bytes());
        for number in 0..count {
            command.extend([&[first, 9][..], &number.to_be_bytes()].concat());
        }
    }
    command.leak()
}

#[test]
fn table_with_more_addresses_than_are_kept_is_as_good_as_all_of_its_kind() {
    let full = u32::try_from(TABLE_MAX).unwrap();
    let own = "own everybody service-vlan";
    let rows = [
        (tables(full, full), own, "both tables full"),
        (
            tables(full + 1, 0),
            "own listed other everybody service-vlan",
            "too many addresses",
        ),
        (
            tables(0, full + 1),
            "own group other-group everybody service-vlan",
            "too many groups",
        ),
    ];
    for (tables, expected, reason) in rows {
        let got = received(&nic(Some(MacAddress(OWN))), ALL, &[NOT_PROMISCUOUS, tables]);
        assert_eq!(got.join(" "), expected, "{reason}");
    }
    let none = [
        NOT_PROMISCUOUS,
        tables(full + 1, full + 1),
        NO_UNICAST,
        NO_MULTICAST,
    ];
    let got = received(&nic(Some(MacAddress(OWN))), ALL, &none);
    assert_eq!(got, ["everybody"], "none goes before a full table");
}

#[test]
fn card_that_does_not_know_its_address_gets_all_unicast_until_it_does() {
    expect(
        &nic(None),
        &[
            (
                ALL,
                &[NOT_PROMISCUOUS],
                "own listed other everybody service-vlan",
                "nobody has said which is its own",
            ),
            (
                ALL,
                &[NOT_PROMISCUOUS, NEW_ADDRESS],
                "other everybody",
                "the driver has",
            ),
        ],
    );
}

#[test]
fn address_of_a_host_is_neither_a_groups_nor_all_zeroes() {
    assert!(MacAddress([2, 0, 0, 0, 0, 1]).is_host());
    assert!(!MacAddress([0; 6]).is_host());
    assert!(!MacAddress([1, 0, 0x5e, 0, 0, 1]).is_host());
    assert!(!MacAddress::BROADCAST.is_host());
}
