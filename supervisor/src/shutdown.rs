// SPDX-License-Identifier: Apache-2.0
//! The end of a VM: the last event, and the rest of the console's output.

use std::os::fd::AsFd;

use handover::outcome::Outcome;
use host::clock::monotonic_ns;
use ipc::broker::Status;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use spec::api::EventKind;

use super::poll::{Interests, Token};
use super::{Supervisor, SupervisorError, sources};

impl Supervisor {
    /// The VM has ended: tells the clients that follow its events how, and sends the console's
    /// client the rest of the output.
    pub(super) fn shut_down(&mut self, outcome: &Outcome) -> Result<(), SupervisorError> {
        let how = match (outcome.lines.first(), outcome.status) {
            (Some(line), _) => line.clone(),
            (None, Status::Signal(number)) => {
                let signal = Signal::try_from(i32::from(number));
                format!("by {}", signal.map_or("a signal", Signal::as_str))
            }
            (None, _) => String::new(),
        };
        self.event_log.note(EventKind::Ended, None, &how);
        self.publish();
        let drained = self.drain_console();
        let sources = sources(&self.event_log, &self.console);
        self.api.end(sources, monotonic_ns());
        drained
    }

    fn publish(&mut self) {
        let sources = sources(&self.event_log, &self.console);
        self.api.publish(sources, monotonic_ns());
    }

    /// Sends the last output to the client, unless the client does not read or another signal
    /// comes.
    fn drain_console(&mut self) -> Result<(), SupervisorError> {
        self.vmm = None;
        // No client waits any more, and the event log is complete.
        drop(self.devices.retire(monotonic_ns()));
        self.console.end(monotonic_ns());
        self.publish();
        while !self.console.is_drained() {
            let mut interests = Interests::default();
            interests.add(
                Token::Jailer,
                self.context.jailer.as_fd(),
                PollFlags::POLLIN,
            );
            self.console.interests(&mut interests);
            let deadline = self.console.deadline_ns();
            let wait_ns = deadline.map(|deadline| deadline.saturating_sub(monotonic_ns()));
            let ready = interests.wait(wait_ns).map_err(SupervisorError::Poll)?;
            let now_ns = monotonic_ns();
            for (token, events) in ready {
                if token != Token::Jailer {
                    self.console.ready(token, events, now_ns);
                } else if !self.context.jailer.listen().is_empty() {
                    return Ok(());
                }
            }
            self.console.tick(now_ns);
            self.publish();
        }
        Ok(())
    }
}
