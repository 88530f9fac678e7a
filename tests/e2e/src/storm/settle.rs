// SPDX-License-Identifier: Apache-2.0
//! After a storm: all must be as it was before. Each device serves, can be upgraded, and loses nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::{Signal, kill};

use super::act::backends;
use super::plan::{Build, DEVICES};
use super::storage::Level;
use super::{Driver, Scene};
use crate::exchange::Exchange;
use crate::exchange::wires::Frames;

/// How long a device may take to serve again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the last exchange of frames lasts.
const EXCHANGED: Duration = Duration::from_secs(1);

impl Scene<'_> {
    /// Ends all that a storm may have left begun.
    pub(super) fn calm(&self) -> Result<()> {
        // It fails when it is not frozen.
        let _ = self.storage.thaw(Level::Device);
        let _ = self.storage.thaw(Level::Calls);
        for backend in backends() {
            let _ = kill(backend, Signal::SIGCONT);
        }
        if self.harness.has_ended() {
            return Ok(());
        }
        if self.harness.info()?["state"] == "paused" {
            self.harness.bulkhead_ok("resume", &[])?;
        }
        self.harness
            .bulkhead_ok("link", &[DEVICES[2], "up"])
            .map(drop)
    }

    /// Waits until all devices serve, has each do what is asked of devices, and ends the VM.
    pub(super) fn settle(&mut self, exchange: Option<Exchange>) -> Result<()> {
        self.wait_for_service()?;
        let exchanges = exchange.is_some();
        if let Some(exchange) = exchange {
            let (seen, _) = exchange.finish()?;
            println!("SEEN storm {seen:?}");
            ensure!((seen.wrong, seen.backwards) == (0, 0), "frames: {seen:?}");
        }
        for (device, id) in DEVICES.iter().enumerate() {
            let binary = self.program(device, Build::Same).display().to_string();
            self.harness.bulkhead_ok("restart", &[id, "--wait"])?;
            self.harness
                .bulkhead_ok("upgrade", &[id, "--binary", &binary])?;
        }
        if exchanges {
            let exchange = Exchange::start(Frames::new()?);
            thread::sleep(EXCHANGED);
            let (seen, _) = exchange.finish()?;
            ensure!(
                (seen.lost, seen.repeated) == (0, 0),
                "after the storm: {seen:?}"
            );
        }
        let completed = self.harness.completed()?;
        println!("SEEN storm completed and failed: {completed:?}");
        let failed = completed.iter().take(2).map(|(_, failed)| failed);
        ensure!(failed.sum::<u64>() == 0, "requests failed: {completed:?}");
        self.power_off()?;
        let status = self.harness.wait(PATIENCE)?;
        ensure!(status.success(), "bulkhead run ended with {status}");
        Ok(())
    }

    fn power_off(&self) -> Result<()> {
        match self.driver {
            Driver::FakeVmm => self.harness.bulkhead_ok("stop", &[]).map(drop),
            Driver::Guest => self.order("Q").map(drop),
        }
    }

    fn wait_for_service(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let info = self.harness.info()?;
            let devices = info["devices"].as_array().cloned().unwrap_or_default();
            let served = devices.iter().all(|device| device["state"] == "serving");
            if info["state"] == "running" && devices.len() == DEVICES.len() && served {
                return Ok(());
            }
            for device in devices.iter().filter(|device| device["state"] == "stalled") {
                let id = device["id"].as_str().unwrap_or_default();
                self.harness.bulkhead_ok("restart", &[id])?;
            }
            if begun.elapsed() > PATIENCE {
                bail!(
                    "not all is served after the storm: {} {devices:?}",
                    info["state"]
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
