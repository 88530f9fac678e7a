// SPDX-License-Identifier: Apache-2.0
//! A backend that is judged while another serves, and may become the next one.

use std::os::fd::OwnedFd;

use super::Worker;
use crate::virtio::vhost_user::events::{DeviceEvent, LinkError, PeerFault};

impl Worker {
    /// Makes the checked backend the current one.
    pub(super) fn succeed(&mut self) {
        match self.candidate.take() {
            Some(session) => {
                self.session = Some(session);
                self.events.report(DeviceEvent::Connected);
            }
            None => self.disconnect(PeerFault::Closed.into()),
        }
    }

    /// Checks a backend that may become the next one.
    pub(super) fn probe(&mut self, stream: OwnedFd) {
        self.candidate = None;
        let event = match self.judge(stream) {
            Ok(session) => {
                self.candidate = Some(session);
                DeviceEvent::Compatible
            }
            Err(LinkError::Peer(fault)) => DeviceEvent::Incompatible(fault.into()),
            Err(LinkError::Host(fault)) => DeviceEvent::Incompatible(fault.into()),
            // A newer backend is attached already.
            Err(LinkError::Interrupted) => DeviceEvent::Incompatible(PeerFault::Closed.into()),
        };
        self.events.report(event);
    }
}
