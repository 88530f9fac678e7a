// SPDX-License-Identifier: Apache-2.0
//! A backend that stops answering, or reading, at every step: it is given up in time, whatever the
//! vCPUs do meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use devices::virtio::vhost_user::events::DeviceEvent;
use devices::virtio::vhost_user::spec::{Origin, Timeouts};

use super::behaviour::{Backends, Misbehaviour, Plan};
use crate::machine::machine;

/// How long a backend may stay silent and be kept.
const GIVEN_UP: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Every how many steps of the conversation to try.
    #[arg(long, default_value_t = 5)]
    every: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // The device's own patience: that it is short enough is what has to be seen.
    let machine = machine(Origin::Own, Timeouts::default(), None)?;
    let backends = Backends::start()?;
    machine.start_on(backends.next(Plan::HONEST)?.into(), LIMIT)?;
    let vcpu = machine.vcpu()?;
    let (mut tried, mut longest) = (0, Duration::ZERO);
    for at in (0..18).step_by(options.every.max(1)) {
        for misbehaviour in [Misbehaviour::Silent, Misbehaviour::Deaf] {
            let plan = Plan {
                misbehaviour,
                at,
                seed: 1,
            };
            let begun = Instant::now();
            machine.device().attach(backends.next(plan)?.into());
            let outcome = machine.settled(LIMIT)?;
            ensure!(
                matches!(outcome, DeviceEvent::Lost(_)),
                "{misbehaviour:?} at {at}: {outcome:?}"
            );
            longest = longest.max(begun.elapsed());
            tried += 1;
        }
    }
    machine.device().attach(backends.next(Plan::HONEST)?.into());
    ensure!(matches!(machine.settled(LIMIT)?, DeviceEvent::Running));
    let vcpu = vcpu.finish()?;
    drop(machine);
    backends.finish()?;
    println!(
        "RESULT silences={tried} longest_ms={} {vcpu}",
        longest.as_millis()
    );
    ensure!(
        longest <= GIVEN_UP,
        "it was waited {longest:?} for an answer"
    );
    Ok(())
}
