// SPDX-License-Identifier: Apache-2.0
//! Measurements.

mod boot;
mod footprint;
mod launch;
mod net;
mod restart;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::context::{Context, Places};
use crate::procs;

/// What can be measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Name {
    /// From exec to the guest's init, beside QEMU's smallest machine
    Boot,
    /// Of a hand-made kernel: exec to the first KVM_RUN, resident memory of the vmm
    Footprint,
    /// From `bulkhead run` to the first KVM_RUN, alone and many at once; memory of all processes;
    /// takes root
    Launch,
    /// A TCP stream between a guest and its host, beside QEMU with vhost-net and without
    Net,
    /// Pauses of a disk whose backend is killed, upgraded or hangs
    Restart,
}

/// Measures, and closes with a line of `name=value` words after `RESULT`.
///
/// # Errors
/// When something that is measured does not work.
pub fn run(name: Name, places: Places) -> Result<ExitCode> {
    procs::adopt_orphans().context("cannot become the parent of orphans")?;
    let context = Context::new(places)?;
    let result = match name {
        Name::Boot => boot::run(&context)?,
        Name::Footprint => footprint::run(&context)?,
        Name::Launch => launch::run(&context)?,
        Name::Net => net::run(&context)?,
        Name::Restart => restart::run(&context)?,
    };
    println!("RESULT {result}");
    Ok(ExitCode::SUCCESS)
}

/// The middle of `values`, or NaN when there are none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

/// The lower and the upper quartile of `values`: medians of the lower and of the upper half, the middle
/// of an odd number in both.
fn quartiles(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len().div_ceil(2);
    let lower = median(values.iter().take(half).copied());
    let upper = median(values.iter().rev().take(half).copied());
    (lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_nine_are_the_third_and_the_seventh() {
        let (lower, upper) = quartiles((1..=9).map(f64::from));
        assert!((lower - 3.0).abs() < 1e-9 && (upper - 7.0).abs() < 1e-9);
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
