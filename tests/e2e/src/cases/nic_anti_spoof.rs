// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send, as `--net` says it: by default the host does not see it and `stats` tell
//! why; where it is allowed the host does. The driver is a mirror, which sends what it is sent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use loadgen::net::host::{Interface, Packets};
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::exchange::wires::{MAC, TAP};
use crate::harness::Harness;
use crate::network::enter_empty;
use crate::vm::PATIENCE;

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The shortest frame, of which the last byte is a number.
const FRAME_BYTES: usize = 60;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::native(
        "nic_guarded_lets_through_what_is_allowed_and_counts_the_rest",
        guarded,
    )]
}

fn guarded(context: &Context) -> Result<()> {
    // What becomes of a frame from another MAC address, a DHCP offer and a packet from 10.99.0.2.
    let rows = [
        ("", [Some("source-mac"), Some("dhcp"), None]),
        (",any-mac", [None, Some("dhcp"), None]),
        (",any-service", [Some("source-mac"), None, None]),
        (
            ",any-mac,any-service,ipv4=10.99.0.3",
            [None, Some("source-ip"), Some("source-ip")],
        ),
        (",any-mac,any-service,ipv4=10.99.0.2", [None, None, None]),
    ];
    for (number, (options, expected)) in rows.into_iter().enumerate() {
        let told = tells(context, &format!("guarded{number}"), options, expected);
        told.with_context(|| format!("--net tap={TAP}{options}"))?;
    }
    Ok(())
}

/// A NIC with these options lets its guest send all of the three for which there is no reason not to.
fn tells(context: &Context, name: &str, options: &str, expected: [Option<&str>; 3]) -> Result<()> {
    enter_empty()?;
    let mut harness = Harness::start_with(context, name, 0, |_| {
        Ok(("--net", format!("tap={TAP},mac={MAC}{options}")))
    })?;
    let wire = Interface::of(TAP)?.packets(false)?;
    let packet = |port| {
        let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 1];
        [&header[..], &[10, 99, 0, 2], &[0, 9, 0, port]].concat()
    };
    let frames = [
        frame(STRANGER, [0x88, 0xb5], &[], 1),
        frame(GUEST, [8, 0], &packet(68), 2),
        frame(GUEST, [8, 0], &packet(69), 3),
        // What comes behind them says that they have been dealt with.
        frame(GUEST, [0x88, 0xb5], &[], 4),
    ];
    for frame in &frames {
        wire.send(frame)?;
    }
    let seen = seen_until(&wire, 4)?;
    let allowed = (1..).zip(expected).filter(|(_, reason)| reason.is_none());
    let allowed: Vec<u8> = allowed.map(|(number, _)| number).chain([4]).collect();
    ensure!(seen == allowed, "seen {seen:?}, not {allowed:?}");

    let stats: Value = serde_json::from_str(&harness.bulkhead_ok("stats", &["--json"])?)?;
    let dropped = &stats["devices"][0]["dropped"];
    let table = harness.bulkhead_ok("stats", &[])?;
    for reason in ["source-mac", "dhcp", "source-ip"] {
        // The host's own network may be mirrored, too.
        let count = dropped[reason].as_u64().context("no such reason")?;
        let is_expected = expected.contains(&Some(reason));
        ensure!((count > 0) == is_expected, "{reason}: {dropped}");
        ensure!(table.contains(reason) == is_expected, "{reason}: {table}");
    }
    harness.stop()
}

fn frame(to: [u8; 6], kind: [u8; 2], packet: &[u8], number: u8) -> Vec<u8> {
    let mut frame = [&to[..], &HOST, &kind, packet].concat();
    frame.resize(FRAME_BYTES - 1, 0);
    frame.push(number);
    frame
}

/// The numbers of the frames that come back, up to that of the last one.
fn seen_until(wire: &Packets, last: u8) -> Result<Vec<u8>> {
    let (begun, mut seen) = (Instant::now(), Vec::new());
    while seen.last() != Some(&last) {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        ensure!(left > Duration::ZERO, "of the frames came back {seen:?}");
        let Some(frame) = wire.receive(left)? else {
            continue;
        };
        if frame.len() == FRAME_BYTES && frame.starts_with(&HOST) {
            seen.extend(frame.last());
        }
    }
    Ok(seen)
}
