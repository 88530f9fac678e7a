// SPDX-License-Identifier: Apache-2.0
//! The project's chores: demo, test, lab, bench, dist.
fn main() {}
