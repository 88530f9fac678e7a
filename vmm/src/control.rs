// SPDX-License-Identifier: Apache-2.0
//! The main thread: what the supervisor asks for, what the console brings, how the machine ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipc::control::{Channel, ControlError, Ending, Failure, FromVmm, ToVmm};
use log::info;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::arch::Machine;
use crate::console::Console;
use crate::exit::{ExitLatch, Reason};
use crate::vcpu::gate::Gate;
use crate::vcpu::kick::Kick;
use crate::virtio::Device;

/// How often, and each time how long in ms, room is waited for in the control socket.
const ROOM_ATTEMPTS: u32 = 10;
const ROOM_TIMEOUT_MS: u16 = 100;

/// The main thread cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlLoopError {
    /// Waiting failed.
    #[error("cannot wait for events")]
    Poll(#[source] Errno),
    /// The supervisor cannot be understood or reached.
    #[error(transparent)]
    Channel(#[from] ControlError),
    /// The supervisor has gone.
    #[error("the supervisor has gone")]
    Orphaned,
}

/// Everything the main thread looks after.
#[derive(Debug)]
pub struct Control {
    /// COM1's way out.
    pub console: Console,
    /// Something is to be done for the console.
    pub wake: EventFd,
    /// How the machine ends.
    pub end: Arc<ExitLatch>,
    /// The devices.
    pub machine: Arc<Machine>,
    /// Where vCPUs wait.
    pub gate: Arc<Gate>,
    /// One for each vCPU.
    pub kicks: Vec<Kick>,
    /// The virtio devices, as in the launch record.
    pub devices: Vec<Device>,
}

impl Control {
    /// Lets the guest run, and serves until it ends. What it ended for is known to the supervisor
    /// when this returns. A machine that was powered off before its guest ran ends at once.
    pub fn serve(&mut self, channel: &Channel) -> Result<(), ControlLoopError> {
        if self.end.reason().is_none() {
            tell(channel, &FromVmm::Started)?;
            self.gate.open();
        }
        loop {
            let [control, console] = self.wait(channel)?;
            if !control.is_empty() {
                let (message, fd) = channel.receive_with()?.ok_or(ControlLoopError::Orphaned)?;
                self.obey(message, fd, channel)?;
            }
            self.console.serve(console);
            if let Some(reason) = self.end.reason() {
                let last = last_message(reason);
                self.console.finish();
                return Ok(tell(channel, &last)?);
            }
        }
    }

    /// Waits until something is to be done; what happened to the control socket and the console.
    fn wait(&self, channel: &Channel) -> Result<[PollFlags; 2], ControlLoopError> {
        let console = self.console.interest();
        let mut fds = [
            PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(borrow(&self.wake), PollFlags::POLLIN),
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.console.as_fd(), console),
        ];
        // A descriptor without interest would still report that its peer is gone, for ever.
        let count = if console.is_empty() { 3 } else { 4 };
        match poll(&mut fds[..count], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(ControlLoopError::Poll(e)),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let happened = [ready(&fds[0]), ready(&fds[3])];
        if !ready(&fds[1]).is_empty() {
            // Drained before the output is taken, so that what comes later wakes us again.
            let _ = self.wake.read();
        }
        Ok(happened)
    }

    fn obey(
        &self,
        message: ToVmm,
        fd: Option<OwnedFd>,
        channel: &Channel,
    ) -> Result<(), ControlLoopError> {
        match message {
            ToVmm::PowerButton => self.machine.press_power_button(),
            ToVmm::Pause => {
                self.gate.stop_all(&self.kicks, Kick::kick);
                tell(channel, &FromVmm::Paused)?;
            }
            ToVmm::Resume => {
                self.gate.open();
                tell(channel, &FromVmm::Resumed)?;
            }
            ToVmm::Device(index, message) => Device::dispatch(&self.devices, index, message, fd),
        }
        info!("done: {message:?}");
        Ok(())
    }
}

/// Tells the supervisor something it must hear. A guest that resets its devices in a loop can fill
/// the socket with news of them; whoever reads it will soon have made room.
fn tell(channel: &Channel, message: &FromVmm) -> Result<(), ControlError> {
    for _ in 0..ROOM_ATTEMPTS {
        match channel.send(message) {
            Err(ControlError::Send(Errno::EAGAIN)) => {}
            outcome => return outcome,
        }
        let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)];
        // Whatever it says, the next attempt tells.
        let _ = poll(&mut fds, PollTimeout::from(ROOM_TIMEOUT_MS));
    }
    channel.send(message)
}

fn last_message(reason: &Reason) -> FromVmm {
    match reason {
        Reason::Guest(ending) => {
            info!("the guest ended: {}", describe(*ending));
            FromVmm::Ended(*ending)
        }
        Reason::Host(reason) => FromVmm::Failed(Failure {
            about: None,
            reason: reason.clone(),
        }),
    }
}

fn describe(ending: Ending) -> &'static str {
    match ending {
        Ending::PowerOff => "power-off",
        Ending::Reboot => "reboot",
        Ending::Panic => "kernel panic",
        Ending::TripleFault => "triple fault",
        Ending::Crash => "crash",
    }
}

#[allow(unsafe_code)]
fn borrow(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd is open as long as the reference the result borrows from.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Sends until there is no room; how many messages that were.
    fn fill(channel: &Channel) -> usize {
        (0..)
            .take_while(|_| channel.send(&FromVmm::Resumed).is_ok())
            .count()
    }

    #[test]
    fn supervisor_that_reads_late_hears_all_the_same() {
        let (vmm, supervisor) = Channel::pair().unwrap();
        let before = fill(&vmm);
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(150));
            let mut last = None;
            for _ in 0..=before {
                last = supervisor.receive::<FromVmm>().unwrap();
            }
            last
        });

        tell(&vmm, &FromVmm::Paused).unwrap();

        assert_eq!(reader.join().unwrap(), Some(FromVmm::Paused));
    }

    #[test]
    fn supervisor_that_never_reads_is_given_up() {
        let (vmm, _supervisor) = Channel::pair().unwrap();
        assert!(fill(&vmm) > 0);

        let outcome = tell(&vmm, &FromVmm::Paused);

        assert!(matches!(outcome, Err(ControlError::Send(Errno::EAGAIN))));
    }
}
