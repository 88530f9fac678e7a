// SPDX-License-Identifier: Apache-2.0
//! The jail of a NIC's backend.

use handover::users::cards_user;
use spec::{Tap, Vm};

use super::{LOG_BYTES_MAX, Profile};

/// What it is started with, and what it opens beside its queues.
const DESCRIPTORS: u64 = 64;
/// For a pair of queues: the tap's queue, kicks, calls, their copies, and what a worker thread
/// waits with.
const DESCRIPTORS_PER_PAIR: u64 = 32;

/// The backend of the NIC with this tap, at place `index` in the spec.
pub(crate) fn profile(vm: &Vm, index: usize, tap: &Tap) -> Profile {
    Profile {
        user: cards_user(vm, index),
        descriptors_max: DESCRIPTORS + u64::from(tap.pairs) * DESCRIPTORS_PER_PAIR,
        file_bytes_max: LOG_BYTES_MAX,
        oom_score_adj: 400,
    }
}
