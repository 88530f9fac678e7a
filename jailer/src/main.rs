// SPDX-License-Identifier: Apache-2.0
//! jailer
fn main() {}
