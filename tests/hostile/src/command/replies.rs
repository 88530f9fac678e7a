// SPDX-License-Identifier: Apache-2.0
//! Replies that are wrong in every way: the device's thread refuses them one after the other, keeps
//! neither memory nor descriptors of them, and no register access takes longer for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use devices::virtio::vhost_user::events::DeviceEvent;
use devices::virtio::vhost_user::spec::{Origin, Timeouts};
use loadgen::random::Random;

use super::behaviour::{Backends, Misbehaviour, Plan};
use crate::machine::{Machine, machine};
use crate::process;

const LIMIT: Duration = Duration::from_secs(20);
/// When nothing was reported for so long, nothing more comes.
const QUIET: Duration = Duration::from_secs(1);
/// What may be kept in the end, all allocators' caches included.
const GROWTH_MAX_KIB: u64 = 1024;
/// The answers of one connection, up to running queues.
const ANSWERS: u64 = 20;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many wrong replies.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// What is wrong with them.
    #[arg(long, value_enum, default_value_t = Kind::Any)]
    kind: Kind,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What is wrong with replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// All in turns.
    Any,
    /// They come with hundreds of descriptors.
    Descriptors,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let machine = machine(Origin::Own, Timeouts::default(), None)?;
    let backends = Backends::start()?;
    machine.start_on(backends.next(Plan::HONEST)?.into(), LIMIT)?;
    let vcpu = machine.vcpu()?;
    let mut random = Random::new(options.seed);
    let (mut lost, mut ran) = (0_u64, 0_u64);
    let mut before = (0, 0);
    let warm = options.count / 10;
    for number in 0..options.count {
        if number == warm {
            before = at_rest(&machine, &backends)?;
        }
        let misbehaviour = match options.kind {
            Kind::Descriptors => Misbehaviour::Descriptors,
            Kind::Any => {
                let kinds = Misbehaviour::LOUD;
                kinds[usize::try_from(random.below(kinds.len() as u64))?]
            }
        };
        let plan = Plan {
            misbehaviour,
            at: random.below(ANSWERS),
            seed: random.number(),
        };
        machine.device().attach(backends.next(plan)?.into());
        match machine.settled(LIMIT)? {
            DeviceEvent::Lost(_) => lost += 1,
            DeviceEvent::Running => ran += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    let after = at_rest(&machine, &backends)?;
    let grown_kib = after.0.saturating_sub(before.0);
    let vcpu = vcpu.finish()?;
    drop(machine);
    backends.finish()?;
    println!(
        "RESULT replies={} refused={lost} harmless={ran} grown_kib={grown_kib} fds={}->{} {vcpu}",
        options.count, before.1, after.1
    );
    ensure!(grown_kib <= GROWTH_MAX_KIB, "it kept {grown_kib} KiB");
    ensure!(after.1 <= before.1, "it kept descriptors");
    Ok(())
}

/// Memory and descriptors with an honest backend connected, so that both counts are of the same.
fn at_rest(machine: &Machine, backends: &Backends) -> Result<(u64, usize)> {
    // Reports of those before it may still come.
    while machine.settled(QUIET).is_ok() {}
    machine.device().attach(backends.next(Plan::HONEST)?.into());
    while !matches!(machine.settled(LIMIT)?, DeviceEvent::Running) {}
    Ok((process::anonymous_kib()?, process::descriptors()?))
}
