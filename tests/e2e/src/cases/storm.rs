// SPDX-License-Identifier: Apache-2.0
//! Everything that a user can do, at random and at once.

use std::time::Duration;

use super::Case;
use crate::storm::{self, Driver};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// For what comes before and after, on a machine that does other things as well.
const MORE: Duration = Duration::from_secs(900);

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, driver) in [("", Driver::FakeVmm), ("_under_a_guest", Driver::Guest)] {
        cases.extend([
            Case::native(
                format!("storm_of_a_minute{what}_loses_nothing"),
                move |context| storm::run(context, driver, MINUTE),
            )
            .within(MINUTE + MORE),
            Case::native(
                format!("storm_of_an_hour{what}_loses_nothing"),
                move |context| storm::run(context, driver, HOUR),
            )
            .soak(HOUR + MORE),
        ]);
    }
    cases
}
