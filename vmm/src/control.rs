// SPDX-License-Identifier: Apache-2.0
//! The main thread: the supervisor's messages, the console, and the end of the machine.

mod save;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipc::control::{Channel, ControlError, Ending, Failure, FromVmm, ToVmm};
use log::info;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::arch::Board;
use crate::console::Console;
use crate::exit::{ExitLatch, Reason};
use crate::saver::Saver;
use crate::vcpu::gate::Gate;
use crate::vcpu::kick::Kick;
use crate::virtio::Device;

/// How often to wait for room in the control socket, and each time how long in ms.
const ROOM_ATTEMPTS: u32 = 10;
const ROOM_TIMEOUT_MS: u16 = 100;

/// Why the main thread cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ControlLoopError {
    /// poll(2) failed.
    #[error("cannot wait for events")]
    Poll(#[source] Errno),
    /// The supervisor sent a malformed message or cannot be reached.
    #[error(transparent)]
    Channel(#[from] ControlError),
    /// The supervisor has gone.
    #[error("the supervisor has gone")]
    Orphaned,
}

/// What the main thread serves.
#[derive(Debug)]
pub struct Control {
    /// The host's side of COM1.
    pub console: Console,
    /// Written when the serial port has output, or room for input again.
    pub wake: EventFd,
    /// Why the machine ends.
    pub end: Arc<ExitLatch>,
    /// The board.
    pub board: Arc<Board>,
    /// Where vCPUs wait while the VM is paused.
    pub gate: Arc<Gate>,
    /// One kick for each vCPU.
    pub kicks: Vec<Kick>,
    /// The virtio devices, as in the launch record.
    pub devices: Vec<Device>,
    /// Saves the state of the machine.
    pub saver: Saver,
    /// The devices hold their queues, and the console rests: the state of the machine was saved, or was
    /// taken up and the guest has not run since.
    pub held: bool,
}

impl Control {
    /// Starts the guest, and serves until it ends. The supervisor has been told the reason when
    /// this returns. A machine that was powered off before its guest ran ends immediately.
    pub fn serve(&mut self, channel: &Channel) -> Result<(), ControlLoopError> {
        if self.held {
            // As after a pause: the supervisor decides whether the guest goes on here.
            tell(channel, &FromVmm::Paused)?;
        } else if self.end.reason().is_none() {
            tell(channel, &FromVmm::Started)?;
            self.gate.open();
        }
        loop {
            let [control, console] = self.wait(channel)?;
            if !control.is_empty() {
                let (message, fd) = channel.receive_with()?.ok_or(ControlLoopError::Orphaned)?;
                self.obey(message, fd, channel)?;
            }
            if !self.held {
                self.console.serve(console);
            }
            if let Some(reason) = self.end.reason() {
                let last = last_message(reason);
                self.console.finish();
                return Ok(tell(channel, &last)?);
            }
        }
    }

    /// Waits for events; returns those of the control socket and of the console.
    fn wait(&self, channel: &Channel) -> Result<[PollFlags; 2], ControlLoopError> {
        let console = match self.held {
            true => PollFlags::empty(),
            false => self.console.interest(),
        };
        let mut fds = [
            PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(borrow(&self.wake), PollFlags::POLLIN),
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.console.as_fd(), console),
        ];
        // A descriptor without requested events would still report POLLHUP, in a busy loop.
        let count = if console.is_empty() { 3 } else { 4 };
        match poll(&mut fds[..count], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(ControlLoopError::Poll(e)),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let happened = [ready(&fds[0]), ready(&fds[3])];
        if !ready(&fds[1]).is_empty() {
            // Clear it before taking the output, so that later output wakes us again.
            let _ = self.wake.read();
        }
        Ok(happened)
    }

    fn obey(
        &mut self,
        message: ToVmm,
        fd: Option<OwnedFd>,
        channel: &Channel,
    ) -> Result<(), ControlLoopError> {
        match message {
            ToVmm::PowerButton => self.board.press_power_button(),
            ToVmm::Pause => {
                self.gate.stop_all(&self.kicks, Kick::kick);
                tell(channel, &FromVmm::Paused)?;
            }
            ToVmm::Save => tell(channel, &self.save(fd))?,
            ToVmm::Resume => {
                self.release();
                self.gate.open();
                tell(channel, &FromVmm::Resumed)?;
            }
            ToVmm::Device(slot, message) => Device::dispatch(&self.devices, slot, message, fd),
        }
        info!("done: {message:?}");
        Ok(())
    }
}

/// Sends the supervisor a message that must not be lost. A guest that resets its devices in a loop
/// can fill the socket with their events; then wait for the supervisor to make room.
fn tell(channel: &Channel, message: &FromVmm) -> Result<(), ControlError> {
    for _ in 0..ROOM_ATTEMPTS {
        match channel.send(message) {
            Err(ControlError::Send(Errno::EAGAIN)) => {}
            outcome => return outcome,
        }
        let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)];
        // If it fails, the next attempt to send reports why.
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
