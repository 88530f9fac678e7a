// SPDX-License-Identifier: Apache-2.0
//! The helpers that run while the VM runs: at most one for each question, and a bounded number.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use host::clock::monotonic_ns;
use ipc::broker::{Answer, Question, ToSupervisor};
use ipc::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::helper::Helper;

/// More than the devices of a VM can keep busy. A helper counts until its process has ended, which
/// storage can delay beyond its answer.
const RUNNING_MAX: usize = 128;

/// How long the end of the VM waits for killed helpers. One that is blocked on its storage is left
/// behind.
const PATIENCE_MS: u64 = 1000;

/// A helper's answer.
type Said = Result<(Answer, Option<OwnedFd>), Errno>;

/// What a helper does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    /// It answers the question of this number.
    Answers(u32, Question),
    /// It does something that needs no answer.
    Works,
    /// It has answered, and its process is ending.
    Ends,
}

/// A helper and its job.
#[derive(Debug)]
struct Errand {
    job: Job,
    helper: Helper,
}

/// All helpers.
#[derive(Debug, Default)]
pub(super) struct Errands(Vec<Errand>);

impl Errands {
    /// Starts a helper that answers a question. It keeps these descriptors and closes all others.
    pub(super) fn answer(
        &mut self,
        number: u32,
        question: Question,
        kept: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Said,
    ) -> Result<(), Errno> {
        let is_same = |errand: &Errand| matches!(errand.job, Job::Answers(_, q) if q == question);
        if self.0.iter().any(is_same) {
            return Err(Errno::EBUSY);
        }
        self.start(Job::Answers(number, question), kept, |channel| {
            let told = match work() {
                Ok((answer, Some(fd))) => channel.send_with(&answer, fd.as_fd()),
                Ok((answer, None)) => channel.send(&answer),
                Err(errno) => channel.send(&Answer::Refused(errno as i32)),
            };
            // Without an answer, the jailer refuses the question itself.
            drop(told);
        })
    }

    /// Starts a helper that gives no answer; if it fails, the jailer logs the reason.
    pub(super) fn run(&mut self, work: impl FnOnce() -> Result<(), String>) -> Result<(), Errno> {
        self.start(Job::Works, &[], |channel| {
            if let Err(reason) = work() {
                // If the reason cannot be sent, it is not logged.
                let _ = channel.send(&reason);
            }
        })
    }

    fn start(
        &mut self,
        job: Job,
        kept: &[BorrowedFd<'_>],
        act: impl FnOnce(&Channel),
    ) -> Result<(), Errno> {
        if self.0.len() >= RUNNING_MAX {
            return Err(Errno::EAGAIN);
        }
        let helper = Helper::start(kept, act).map_err(|error| {
            log::error!("{}", host::log::chain(&error));
            Errno::EAGAIN
        })?;
        self.0.push(Errand { job, helper });
        Ok(())
    }

    /// Descriptors that become readable when a helper has answered or ended.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|errand| match errand.job {
            Job::Answers(..) | Job::Works => errand.helper.channel().as_fd(),
            Job::Ends => errand.helper.exit_fd(),
        })
    }

    /// The answers that have come, with their descriptors. Reaps helpers that have ended.
    pub(super) fn take(&mut self) -> Vec<(ToSupervisor, Option<OwnedFd>)> {
        let mut answers = Vec::new();
        for errand in &mut self.0 {
            answers.extend(errand.hear());
        }
        self.0
            .retain_mut(|errand| errand.job != Job::Ends || !errand.helper.has_ended());
        answers
    }

    /// The VM has ended: kills the helpers and waits for them, up to [`PATIENCE_MS`].
    pub(super) fn end(mut self) {
        self.0.iter().for_each(|errand| errand.helper.kill());
        let until_ns = monotonic_ns() + PATIENCE_MS * 1_000_000;
        while let Some(errand) = self.0.first_mut() {
            let left_ms = until_ns.saturating_sub(monotonic_ns()).div_ceil(1_000_000);
            if errand.helper.has_ended() || left_ms == 0 {
                self.0.swap_remove(0);
                continue;
            }
            let mut fds = [PollFd::new(errand.helper.exit_fd(), PollFlags::POLLIN)];
            let wait = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::ZERO);
            // The loop above looks at what has happened.
            let _ = poll(&mut fds, wait);
        }
    }
}

impl Errand {
    /// Reads what the helper has sent; returns what to send to the supervisor.
    fn hear(&mut self) -> Option<(ToSupervisor, Option<OwnedFd>)> {
        let channel = self.helper.channel();
        let told = match self.job {
            Job::Ends => return None,
            Job::Works => match channel.receive::<String>() {
                Err(ControlError::Receive(Errno::EAGAIN)) => return None,
                Ok(Some(reason)) => {
                    log::warn!("{reason}");
                    None
                }
                Ok(None) | Err(_) => None,
            },
            Job::Answers(number, _) => {
                let (answer, fd) = match channel.receive_with() {
                    Err(ControlError::Receive(Errno::EAGAIN)) => return None,
                    Ok(Some(answered)) => answered,
                    Ok(None) | Err(_) => (Answer::Refused(Errno::EIO as i32), None),
                };
                Some((ToSupervisor::Answer(number, answer), fd))
            }
        };
        self.job = Job::Ends;
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question = Question::ReopenDisk(0);

    fn next(errands: &mut Errands) -> Vec<(ToSupervisor, Option<OwnedFd>)> {
        while !errands.0.is_empty() {
            let fds = errands.fds();
            let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::NONE).unwrap();
            let answers = errands.take();
            if !answers.is_empty() {
                return answers;
            }
        }
        Vec::new()
    }

    #[test]
    fn question_that_blocks_delays_no_other_and_is_not_asked_twice() {
        let mut errands = Errands::default();
        let (blocks, _writer) = nix::unistd::pipe().unwrap();
        let blocked = errands.answer(1, QUESTION, &[blocks.as_fd()], || {
            let _ = nix::unistd::read(&blocks, &mut [0]);
            Err(Errno::EIO)
        });
        assert_eq!(blocked, Ok(()));
        let again = errands.answer(2, QUESTION, &[], || Err(Errno::EIO));
        assert_eq!(again, Err(Errno::EBUSY));
        let other = Question::ReopenDisk(1);
        let begun = errands.answer(3, other, &[], || Ok((Answer::Opened, None)));
        assert_eq!(begun, Ok(()));
        let answers = next(&mut errands);
        assert!(matches!(
            answers[..],
            [(ToSupervisor::Answer(3, Answer::Opened), None)]
        ));
    }

    #[test]
    fn helper_that_dies_is_answered_for_and_reaped() {
        let mut errands = Errands::default();
        let begun = errands.answer(1, QUESTION, &[], || panic!("as a test wants it"));
        assert_eq!(begun, Ok(()));
        let refused = Answer::Refused(Errno::EIO as i32);
        let answers = next(&mut errands);
        assert_eq!(answers[0].0, ToSupervisor::Answer(1, refused));
        assert!(next(&mut errands).is_empty() && errands.0.is_empty());
    }

    #[test]
    fn helpers_are_never_many() {
        let mut errands = Errands::default();
        let forever = || loop {
            std::thread::park();
        };
        let begun = (0..=RUNNING_MAX).map(|_| errands.run(forever));
        let refused: Vec<_> = begun.filter_map(Result::err).collect();
        assert_eq!(refused, [Errno::EAGAIN]);
    }
}
