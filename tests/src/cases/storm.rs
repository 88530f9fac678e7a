// SPDX-License-Identifier: Apache-2.0
//! Everything that a user can do, at random and at once.

use std::time::Duration;

use super::Case;
use crate::storm;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// For what comes before and after, on a machine that does other things as well.
const MORE: Duration = Duration::from_secs(900);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("storm_of_a_minute_loses_nothing", |context| {
            storm::run(context, context.seed(), MINUTE)
        })
        .within(MINUTE + MORE),
        Case::native("storm_of_an_hour_loses_nothing", |context| {
            storm::run(context, context.seed(), HOUR)
        })
        .soak(HOUR + MORE),
    ]
}
