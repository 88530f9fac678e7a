// SPDX-License-Identifier: Apache-2.0
//! Frames for switches.
use super::*;

fn to(destination: [u8; 6], kind: u16) -> Vec<u8> {
    [&destination[..], &MAC.0, &kind.to_be_bytes(), &[0x42; 50]].concat()
}

#[test]
fn frame_for_switches_is_refused_while_services_are() {
    let groups: [([u8; 6], u16); 10] = [
        // Spanning tree, PAUSE, LACP, 802.1X, provider bridges, LLDP, MVRP, CDP, PVST+, PAgP.
        ([1, 0x80, 0xc2, 0, 0, 0], 39),
        ([1, 0x80, 0xc2, 0, 0, 1], 0x8808),
        ([1, 0x80, 0xc2, 0, 0, 2], 0x8809),
        ([1, 0x80, 0xc2, 0, 0, 3], 0x888e),
        ([1, 0x80, 0xc2, 0, 0, 8], 39),
        ([1, 0x80, 0xc2, 0, 0, 0xe], 0x88cc),
        ([1, 0x80, 0xc2, 0, 0, 0x21], 0x88f5),
        ([1, 0, 0x0c, 0xcc, 0xcc, 0xcc], 60),
        ([1, 0, 0x0c, 0xcc, 0xcc, 0xcd], 60),
        ([1, 0, 0x0c, 0, 0, 0], 60),
    ];
    for (destination, kind) in groups {
        let sent = to(destination, kind);
        assert_eq!(
            check(&sent),
            Err(Violation::LinkControl),
            "{destination:x?}"
        );
        assert_eq!(check_with(&open(), &sent), Ok(()), "{destination:x?}");
        let mut tagged = sent.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(check(&tagged), Err(Violation::LinkControl));
    }
}

#[test]
fn frame_that_only_switches_send_is_refused_whatever_its_address() {
    for kind in [0x8808, 0x8809, 0x88cc] {
        let mut sent = to([2, 0, 0, 0, 0, 9], kind);
        assert_eq!(check(&sent), Err(Violation::LinkControl), "{kind:x}");
        sent.splice(12..12, [0x88, 0xa8, 0, 7]);
        assert_eq!(check(&sent), Err(Violation::LinkControl), "{kind:x}");
        assert_eq!(check_with(&open(), &sent), Ok(()));
    }
}

#[test]
fn frame_for_another_group_is_let_through() {
    // IPv4 and IPv6 multicast, IS-IS, faults of connectivity.
    let groups = [
        [1, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
        [1, 0x80, 0xc2, 0, 0, 0x14],
        [1, 0x80, 0xc2, 0, 0, 0x30],
        [1, 0x80, 0xc2, 0, 1, 0],
    ];
    for destination in groups {
        assert_eq!(check(&to(destination, 0x88b5)), Ok(()), "{destination:x?}");
    }
}
