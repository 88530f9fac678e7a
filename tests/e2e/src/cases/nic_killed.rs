// SPDX-License-Identifier: Apache-2.0
//! Backends of a NIC that are killed again and again under TCP and under UDP, segmented
//! later where the tap can. Everything is real but the guest: its driver is a mirror, across which the
//! host's TCP and UDP talk to themselves.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use host::tap;
use loadgen::net::host::Interface;
use nix::sys::signal::Signal;

use super::Case;
use crate::context::Context;
use crate::exchange::Exchange;
use crate::exchange::wires::{Datagrams, GUEST_IP, HOST_IP, TAP, address_tap};
use crate::harness::{Device, Harness, Setup};
use crate::network::ip;
use crate::traffic::Traffic;
use crate::vm::PATIENCE;

/// How long a backend serves before it is killed.
const SERVICE: Duration = Duration::from_millis(40);
/// The stream is to be there when backends die, not to keep the host busy.
const PAUSE: Duration = Duration::from_millis(2);
const SOAK: Duration = Duration::from_secs(20 * 60);
/// Kinds of segmentation (virtio 1.2, §5.1.6): of TCP over IPv4, of UDP.
const TCPV4: u8 = 1;
const UDP_L4: u8 = 5;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, traffic) in [("tcp", tcp as Body), ("udp", udp)] {
        cases.extend([
            Case::native(
                format!("nic_killed_under_{name}_loses_no_more_than_was_in_flight"),
                move |context| traffic(context, 20),
            ),
            Case::native(
                format!(
                    "nic_killed_a_thousand_times_under_{name}_loses_no_more_than_was_in_flight"
                ),
                move |context| traffic(context, 1000),
            )
            .soak(SOAK),
        ]);
    }
    cases.push(Case::native("nic_whose_tap_is_deleted_is_told_of", deleted));
    cases
}

/// Somebody deletes the tap under the NIC.
fn deleted(context: &Context) -> Result<()> {
    let mut harness = start(context)?;
    let link = || Ok::<_, anyhow::Error>(harness.info()?["devices"][0]["link_up"].clone());
    ensure!(link()? == true, "the link is down at first");

    ip(&format!("link delete {TAP}"))?;

    let begun = Instant::now();
    while harness.count("tap-gone")? == 0 {
        ensure!(begun.elapsed() < PATIENCE, "nothing is told of");
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(link()? == false, "the link is still up");
    let plugged = harness.bulkhead("link", &[Device::Nic.id(), "up"])?;
    let said = String::from_utf8_lossy(&plugged.stderr);
    ensure!(
        !plugged.status.success() && said.contains("its tap was deleted"),
        "{said}"
    );
    harness.stop()
}

type Body = fn(&Context, u64) -> Result<()>;

/// A VM with a NIC that the host's IP can reach.
fn start(context: &Context) -> Result<Harness> {
    let harness = Harness::start_nic(context, "killed", Setup::new(context, 0))?;
    address_tap()?;
    Ok(harness)
}

/// Kills backends, of which every other one dies by the supervisor's own hand, which forgives those
/// before it. How many.
fn kill(harness: &Harness, times: u64, mut each: impl FnMut() -> Result<()>) -> Result<u64> {
    let (tap, mut killed) = (Interface::of(TAP)?, 0);
    while killed < times {
        std::thread::sleep(SERVICE);
        let (dead, _) = harness.signal(Signal::SIGKILL)?;
        ensure!(tap.has_carrier()?, "the link went down");
        harness.backend_after(dead)?;
        std::thread::sleep(SERVICE);
        harness.bulkhead_ok("restart", &[Device::Nic.id(), "--wait"])?;
        killed += 2;
        each()?;
    }
    Ok(killed)
}

fn tcp(context: &Context, times: u64) -> Result<()> {
    let mut harness = start(context)?;
    let traffic = Traffic::across(HOST_IP, GUEST_IP, PAUSE)?;
    segmented(&harness, TCPV4)?;
    let killed = kill(&harness, times, || traffic.goes_on())?;
    let back = traffic.end()?;
    harness.stop()?;
    println!(
        "SEEN killed under=tcp kills={killed} bytes={} pauses_ms={}",
        back.bytes, back.pauses
    );
    Ok(())
}

fn udp(context: &Context, times: u64) -> Result<()> {
    let mut harness = start(context)?;
    let exchange = Exchange::start(Datagrams::new()?);
    if taps_segment_udp()? {
        segmented(&harness, UDP_L4)?;
    }
    let killed = kill(&harness, times, || Ok(()))?;
    let (seen, _) = exchange.finish()?;
    harness.stop()?;
    println!(
        "SEEN killed under=udp kills={killed} frames={} lost={} repeated={}",
        seen.sent, seen.lost, seen.repeated
    );
    seen.explained_by(killed)
}

/// Waits until the driver has seen a frame that is to be segmented so.
fn segmented(harness: &Harness, kind: u8) -> Result<()> {
    harness.wait_for(&format!("DRIVER segmentation={kind}\n"), PATIENCE)
}

/// Whether this host's taps know UDP segmentation.
fn taps_segment_udp() -> Result<bool> {
    let queues = tap::open("probe0", 1)?;
    Ok(queues.iter().all(|queue| tap::has_uso(queue.as_fd())))
}
