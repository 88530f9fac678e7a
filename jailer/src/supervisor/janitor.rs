// SPDX-License-Identifier: Apache-2.0
//! The supervisor's end of its link to the janitor: the few questions it may ask, and the signals
//! it hears of.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use launch::clock::monotonic_ns;
use launch::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::link::{Answer, Question, ToJanitor, ToSupervisor, clip};
use crate::outcome::Outcome;

/// How long the janitor may take to answer: it waits for nobody, but it opens things, and storage may
/// be slow.
const ANSWER_NS: u64 = 10_000_000_000;

/// The janitor did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It cannot be reached.
    #[error("cannot reach the janitor")]
    Link(#[from] ControlError),
    /// It could not do it either.
    #[error("the janitor was refused")]
    Refused(#[source] Errno),
    /// It is gone.
    #[error("the janitor is gone")]
    Gone,
    /// It does not answer, or answers something else.
    #[error("the janitor does not answer")]
    Silent,
}

/// The janitor, as the supervisor sees it.
#[derive(Debug)]
pub(crate) struct Janitor {
    channel: Channel,
    /// How many questions were asked.
    asked: Cell<u32>,
    /// Signals that came while an answer was waited for.
    early: RefCell<VecDeque<i32>>,
}

/// Something of the janitor's own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The user sent a signal.
    Signal(i32),
    /// There is no janitor any more: whatever is left of the VM must end.
    Gone,
}

impl Janitor {
    /// Takes our end of the link, which is non-blocking.
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            asked: Cell::new(0),
            early: RefCell::default(),
        }
    }

    /// Our end, for one who does not keep to what is said here.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Opens the image of a disk once more.
    pub(crate) fn reopen_disk(&self, index: u8) -> Result<OwnedFd, AskError> {
        self.open(Question::ReopenDisk(index))
    }

    /// Connects to another program's backend.
    pub(crate) fn connect_foreign(&self, index: u8) -> Result<OwnedFd, AskError> {
        self.open(Question::ConnectForeign(index))
    }

    /// The number on the host of a process that is this user of the VM's.
    pub(crate) fn host_pid(&self, user: u8, pidfd: BorrowedFd<'_>) -> Result<Pid, AskError> {
        let number = self.next_number();
        let ask = ToJanitor::Ask(number, Question::HostPid(user));
        self.channel.send_with(&ask, pidfd)?;
        match self.answer(number)? {
            (Answer::HostPid(pid), _) => Ok(Pid::from_raw(pid)),
            (Answer::Refused(errno), _) => Err(AskError::Refused(Errno::from_raw(errno))),
            _ => Err(AskError::Silent),
        }
    }

    /// Says that the guest has started.
    pub(crate) fn tell_started(&self) {
        // If it cannot be told, it is gone, which is noticed elsewhere.
        let _ = self.send(&ToJanitor::Started);
    }

    /// Says how the VM has ended: the last that is said.
    pub(crate) fn tell_outcome(&self, outcome: &Outcome) {
        for line in &outcome.lines {
            let _ = self.send(&ToJanitor::Line(clip(line).into()));
        }
        let _ = self.send(&ToJanitor::Ended(outcome.status));
    }

    /// What it says of its own accord, as far as it has been said.
    pub(crate) fn news(&self) -> Vec<News> {
        let early = self.early.borrow_mut().drain(..).collect::<Vec<_>>();
        let mut news: Vec<_> = early.into_iter().map(News::Signal).collect();
        loop {
            match self.channel.receive() {
                Ok(Some(ToSupervisor::Signal(signal))) => news.push(News::Signal(signal)),
                // An answer that came too late: nobody waits for it.
                Ok(Some(_)) => {}
                Err(ControlError::Receive(Errno::EAGAIN)) => return news,
                Ok(None) | Err(_) => {
                    news.push(News::Gone);
                    return news;
                }
            }
        }
    }

    /// Whether there are news that no descriptor tells of.
    pub(crate) fn has_early_news(&self) -> bool {
        !self.early.borrow().is_empty()
    }

    fn send(&self, message: &ToJanitor) -> Result<(), AskError> {
        Ok(self.channel.send(message)?)
    }

    fn next_number(&self) -> u32 {
        self.asked.set(self.asked.get().wrapping_add(1));
        self.asked.get()
    }

    fn open(&self, question: Question) -> Result<OwnedFd, AskError> {
        let number = self.next_number();
        self.send(&ToJanitor::Ask(number, question))?;
        match self.answer(number)? {
            (Answer::Opened, Some(fd)) => Ok(fd),
            (Answer::Refused(errno), _) => Err(AskError::Refused(Errno::from_raw(errno))),
            _ => Err(AskError::Silent),
        }
    }

    fn answer(&self, asked: u32) -> Result<(Answer, Option<OwnedFd>), AskError> {
        let deadline_ns = monotonic_ns() + ANSWER_NS;
        loop {
            match self.channel.receive_with() {
                Ok(Some((ToSupervisor::Signal(signal), _))) => {
                    self.early.borrow_mut().push_back(signal);
                }
                // One to an earlier question came too late, and is dropped.
                Ok(Some((ToSupervisor::Answer(number, answer), fd))) if number == asked => {
                    return Ok((answer, fd));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(AskError::Gone),
                Err(ControlError::Receive(Errno::EAGAIN)) => self.wait(deadline_ns)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, deadline_ns: u64) -> Result<(), AskError> {
        let left_ns = deadline_ns.saturating_sub(monotonic_ns());
        let timeout = PollTimeout::try_from(left_ns.div_ceil(1_000_000));
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(0) => Err(AskError::Silent),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(ControlError::Receive(errno).into()),
        }
    }
}

impl AsFd for Janitor {
    /// Readable when there are news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Status;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    fn pair() -> (Janitor, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (Janitor::new(ours), theirs)
    }

    fn answer(number: u32, answer: Answer) -> ToSupervisor {
        ToSupervisor::Answer(number, answer)
    }

    #[test]
    fn signal_before_an_answer_is_news_after_it() {
        let (janitor, other) = pair();
        other.send(&ToSupervisor::Signal(15)).unwrap();
        other.send(&answer(1, Answer::Refused(2))).unwrap();
        let refused = janitor.reopen_disk(7);
        assert!(matches!(refused, Err(AskError::Refused(Errno::ENOENT))));
        let asked = ToJanitor::Ask(1, Question::ReopenDisk(7));
        assert_eq!(other.receive().unwrap(), Some(asked));
        assert!(janitor.has_early_news());
        assert_eq!(janitor.news(), [News::Signal(15)]);
        drop(other);
        assert_eq!(janitor.news(), [News::Gone]);
        assert!(matches!(
            janitor.connect_foreign(0),
            Err(AskError::Link(_) | AskError::Gone)
        ));
    }

    #[test]
    fn answer_to_an_earlier_question_is_not_taken_for_this_one() {
        let (janitor, other) = pair();
        let file = tempfile::tempfile().unwrap();
        let late = answer(0, Answer::Opened);
        other.send_with(&late, file.as_fd()).unwrap();
        other.send(&answer(1, Answer::Refused(5))).unwrap();
        let refused = janitor.reopen_disk(0);
        assert!(matches!(refused, Err(AskError::Refused(Errno::EIO))));
    }

    #[test]
    fn answer_without_a_descriptor_or_of_another_kind_is_none() {
        let (janitor, other) = pair();
        other.send(&answer(1, Answer::Opened)).unwrap();
        assert!(matches!(janitor.reopen_disk(0), Err(AskError::Silent)));
        other.send(&answer(2, Answer::HostPid(1))).unwrap();
        assert!(matches!(janitor.connect_foreign(0), Err(AskError::Silent)));
    }

    #[test]
    fn outcome_is_told_line_by_line() {
        let (janitor, other) = pair();
        janitor.tell_outcome(&Outcome::new(Status::Guest, ["a", "b"]));
        for line in ["a", "b"] {
            let told = other.receive().unwrap();
            assert_eq!(told, Some(ToJanitor::Line(line.into())));
        }
        assert_eq!(
            other.receive().unwrap(),
            Some(ToJanitor::Ended(Status::Guest))
        );
    }
}
