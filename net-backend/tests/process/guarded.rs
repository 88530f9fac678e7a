// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send does not reach the host.

use crate::stand::{GUEST, HOST, MOMENT, PATIENCE, SHAPE, Stand, frame};

const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn frame_from_another_mac_is_used_and_not_sent() {
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", "mac,services"];
    let mut stand = Stand::new("spoofed", &arguments, SHAPE);
    stand.send(&frame(HOST, STRANGER, 1, 100));
    stand.settle();
    assert_eq!(stand.host_sees(MOMENT), None);
    let good = frame(HOST, GUEST, 2, 100);
    stand.send(&good);
    assert_eq!(stand.host_sees(PATIENCE).unwrap(), good);
}

#[test]
fn frame_from_another_mac_is_sent_where_that_is_allowed() {
    let mut stand = Stand::new("unguarded", &[], SHAPE);
    let any = frame(HOST, STRANGER, 1, 100);
    stand.send(&any);
    assert_eq!(stand.host_sees(PATIENCE).unwrap(), any);
}
