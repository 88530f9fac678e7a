// SPDX-License-Identifier: Apache-2.0
//! Which requests must wait for SET_FEATURES.

use super::request::Request;

/// Resets the device.
pub(super) const RESET_DEVICE: u32 = 34;
/// `VHOST_USER_F_PROTOCOL_FEATURES`
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// More rings than any device here has.
const EARLY_MAX: usize = 64;

/// The requests held back until SET_FEATURES.
#[derive(Debug, Default)]
pub(super) struct Order {
    featured: bool,
    early: Vec<Request>,
}

impl Order {
    /// Whether this request must be held back.
    pub(super) fn is_early(&self, request: &Request) -> bool {
        !self.featured && request.enables_a_ring() && self.early.len() < EARLY_MAX
    }

    /// Holds a request back.
    pub(super) fn keep(&mut self, request: Request) {
        self.early.push(request);
    }

    /// The requests to forward, now that this one has arrived.
    pub(super) fn after(&mut self, request: Request) -> Vec<Request> {
        let features = request.features();
        // The daemon forgets the features when the device is reset.
        self.featured &= request.code() != RESET_DEVICE;
        let mut ready = vec![request];
        if let Some(features) = features {
            self.featured = true;
            let early = std::mem::take(&mut self.early);
            // Without this feature, all rings are enabled anyway.
            if features & PROTOCOL_FEATURES != 0 {
                ready.extend(early);
            }
        }
        ready
    }
}
