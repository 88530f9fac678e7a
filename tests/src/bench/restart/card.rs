// SPDX-License-Identifier: Apache-2.0
//! Frames to a network card that sends them back, while its backend is killed: how long none comes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use loadgen::gaps::Gaps;
use loadgen::net::host::{Interface, Packets, enter_namespace};

use super::{kill_again_and_again, pauses_in};
use crate::context::{Context, need_root};
use crate::stand::Stand;

const TAP: &str = "bench0";
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// An EtherType for experiments.
const KIND: [u8; 2] = [0x88, 0xb5];
/// The shortest frame.
const FRAME_BYTES: usize = 60;
/// The time from one frame to the next, and from one look to the next.
const EVERY: Duration = Duration::from_micros(500);

/// The pauses after kills, in ms.
pub(super) fn kills(context: &Context) -> Result<Vec<f64>> {
    need_root()?;
    std::thread::scope(|scope| {
        // The network is this thread's, and that of what it starts.
        let thread = scope.spawn(|| {
            enter_namespace().context("a network namespace")?;
            measure(context)
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn measure(context: &Context) -> Result<Vec<f64>> {
    let net = "tap=bench0,id=nic,mac=02:00:00:00:00:01";
    let stand = Stand::start_with(context, "card", 0, |_| Ok(("--net", net.to_owned())))?;
    let host = Interface::of(TAP)?.packets(false)?;
    let (gaps, done) = (Gaps::default(), AtomicBool::new(false));
    let times = std::thread::scope(|scope| {
        let frames = scope.spawn(|| exchange(&host, &gaps, &done));
        let times = kill_again_and_again(&stand, "nic", || Ok(()));
        done.store(true, Relaxed);
        let exchanged = frames.join().map_err(|_| anyhow!("a thread panicked"))?;
        exchanged.context("the host's side of the tap")?;
        times
    })?;
    pauses_in(&gaps.take(), &times)
}

/// Sends a frame every now and then, and notes when one comes back.
fn exchange(host: &Packets, gaps: &Gaps, done: &AtomicBool) -> std::io::Result<()> {
    let mut frame = [&GUEST[..], &HOST, &KIND].concat();
    frame.resize(FRAME_BYTES, 0);
    while !done.load(Relaxed) {
        host.send(&frame)?;
        std::thread::sleep(EVERY);
        while let Some(frame) = host.receive(Duration::ZERO)? {
            if frame.starts_with(&HOST) {
                gaps.event();
            }
        }
    }
    Ok(())
}
