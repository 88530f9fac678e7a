// SPDX-License-Identifier: Apache-2.0
//! Which requests have to wait for the features.

use super::request::Request;

/// Resets the device.
pub(super) const RESET_DEVICE: u32 = 34;
/// `VHOST_USER_F_PROTOCOL_FEATURES`
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// More rings than any device here has.
const EARLY_MAX: usize = 64;

/// What has to wait.
#[derive(Debug, Default)]
pub(super) struct Order {
    featured: bool,
    early: Vec<Request>,
}

impl Order {
    /// Whether this request has to wait.
    pub(super) fn is_early(&self, request: &Request) -> bool {
        !self.featured && request.enables_a_ring() && self.early.len() < EARLY_MAX
    }

    /// It waits.
    pub(super) fn keep(&mut self, request: Request) {
        self.early.push(request);
    }

    /// What can be passed on, now that this request has come.
    pub(super) fn after(&mut self, request: Request) -> Vec<Request> {
        let features = request.features();
        // With it the daemon forgets the features.
        self.featured &= request.code() != RESET_DEVICE;
        let mut ready = vec![request];
        if let Some(features) = features {
            self.featured = true;
            let early = std::mem::take(&mut self.early);
            // Without them, all rings are enabled anyway.
            if features & PROTOCOL_FEATURES != 0 {
                ready.extend(early);
            }
        }
        ready
    }
}
