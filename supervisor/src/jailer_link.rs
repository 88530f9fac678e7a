// SPDX-License-Identifier: Apache-2.0
//! The supervisor's end of the socket to the jailer: the few questions that it may ask, and the
//! signals that the jailer forwards. It never waits: an answer takes as long as the storage behind
//! it, and the caller looks for it later.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use handover::outcome::Outcome;
use host::clock::monotonic_ns;
use ipc::broker::{Answer, Question, Reopened, ToJailer, ToSupervisor, clip};
use ipc::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;

/// How long the jailer may take to make room for the report of the VM's end.
const LAST_WORDS_NS: u64 = 10_000_000_000;
/// How often to try meanwhile: poll(2) reports room only when there is much of it.
const LOOK_MS: u8 = 20;

/// The jailer did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The jailer cannot be reached.
    #[error("cannot reach the jailer")]
    Link(#[from] ControlError),
    /// The jailer could not do it either.
    #[error("the jailer was refused")]
    Refused(#[source] Errno),
    /// The answer is none to this question.
    #[error("the jailer does not answer")]
    Silent,
}

/// An answer and its descriptor.
type Answered = (Answer, Option<OwnedFd>);

/// The open questions, with the answers that have come.
type Answers = Rc<RefCell<BTreeMap<u32, Option<Answered>>>>;

/// A question that was asked. Dropping it forgets the question and its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    number: u32,
    answers: Answers,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.answers.borrow_mut().remove(&self.number);
    }
}

impl Asked {
    /// Takes the answer; `None` if it has not come.
    fn take(&self) -> Option<Result<Answered, AskError>> {
        let answered = self.answers.borrow_mut().get_mut(&self.number)?.take()?;
        Some(match answered {
            (Answer::Refused(errno), _) => Err(AskError::Refused(Errno::from_raw(errno))),
            answered => Ok(answered),
        })
    }

    /// The connection that was asked for, once the answer has come.
    pub(crate) fn connected(&self) -> Option<Result<OwnedFd, AskError>> {
        Some(match self.take()? {
            Ok((Answer::Opened, Some(fd))) => Ok(fd),
            Ok(_) => Err(AskError::Silent),
            Err(error) => Err(error),
        })
    }

    /// The opening that was asked for, once the answer has come.
    pub(crate) fn reopened(&self) -> Option<Result<(Reopened, OwnedFd), AskError>> {
        Some(match self.take()? {
            Ok((Answer::Reopened(reopened), Some(fd))) => Ok((reopened, fd)),
            Ok(_) => Err(AskError::Silent),
            Err(error) => Err(error),
        })
    }

    /// Whether the opening was released, once the answer has come.
    pub(crate) fn released(&self) -> Option<Result<(), AskError>> {
        Some(match self.take()? {
            Ok((Answer::Released, _)) => Ok(()),
            Ok(_) => Err(AskError::Silent),
            Err(error) => Err(error),
        })
    }

    /// The result of syncing the image, once the answer has come: 0, or an errno.
    pub(crate) fn synced(&self) -> Option<Result<i32, AskError>> {
        Some(match self.take()? {
            Ok((Answer::Synced(errno), _)) => Ok(errno),
            Ok(_) => Err(AskError::Silent),
            Err(error) => Err(error),
        })
    }

    /// How many processes the kernel has killed, once the answer has come.
    pub(crate) fn oom_kills(&self) -> Option<Result<u64, AskError>> {
        Some(match self.take()? {
            Ok((Answer::OomKills(count), _)) => Ok(count),
            Ok(_) => Err(AskError::Silent),
            Err(error) => Err(error),
        })
    }

    /// The process id that was asked for, once the answer has come.
    pub(crate) fn host_pid(&self) -> Option<Result<Pid, AskError>> {
        Some(match self.take()? {
            Ok((Answer::HostPid(pid), _)) => Ok(Pid::from_raw(pid)),
            Ok(_) => Err(AskError::Silent),
            Err(error) => Err(error),
        })
    }
}

/// The jailer, as the supervisor sees it.
#[derive(Debug)]
pub(crate) struct JailerLink {
    channel: Channel,
    /// How many questions were asked.
    asked: Cell<u32>,
    answers: Answers,
}

/// A message that the jailer sent unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// The user sent a signal.
    Signal(i32),
    /// The jailer is gone: whatever is left of the VM must end.
    Gone,
}

impl JailerLink {
    /// Takes our end of the socket, which is non-blocking.
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            asked: Cell::new(0),
            answers: Answers::default(),
        }
    }

    /// Our end, for a test of a supervisor that breaks the protocol.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Asks the jailer a question.
    pub(crate) fn ask(&self, question: Question) -> Result<Asked, AskError> {
        self.ask_all(question, None)
    }

    /// Asks for the process id, on the host, of a process that runs as this user of the VM.
    pub(crate) fn ask_host_pid(&self, user: u8, pidfd: BorrowedFd<'_>) -> Result<Asked, AskError> {
        self.ask_all(Question::HostPid(user), Some(pidfd))
    }

    /// Asks how many processes of the VM the kernel has killed for want of memory.
    pub(crate) fn ask_oom_kills(&self) -> Result<Asked, AskError> {
        self.ask_all(Question::OomKills, None)
    }

    fn ask_all(&self, question: Question, fd: Option<BorrowedFd<'_>>) -> Result<Asked, AskError> {
        self.asked.set(self.asked.get().wrapping_add(1));
        let number = self.asked.get();
        let message = ToJailer::Ask(number, question);
        match fd {
            Some(fd) => self.channel.send_with(&message, fd)?,
            None => self.channel.send(&message)?,
        }
        self.answers.borrow_mut().insert(number, None);
        Ok(Asked {
            number,
            answers: Rc::clone(&self.answers),
        })
    }

    /// Tells the jailer that the guest has started.
    pub(crate) fn tell_started(&self) {
        // A failed send means that the jailer is gone, which `listen` notices.
        let _ = self.send(&ToJailer::Started);
    }

    /// Tells the jailer how the VM has ended: the last messages.
    pub(crate) fn tell_outcome(&self, outcome: &Outcome) {
        for line in &outcome.lines {
            self.insist(&ToJailer::Line(clip(line).into()));
        }
        self.insist(&ToJailer::Ended(outcome.status, outcome.reason));
    }

    /// Sends a message that must not be lost. The jailer reads slowly after many messages, so there
    /// may be no room yet.
    fn insist(&self, message: &ToJailer) {
        let deadline_ns = monotonic_ns() + LAST_WORDS_NS;
        while let Err(AskError::Link(ControlError::Send(Errno::EAGAIN))) = self.send(message) {
            if monotonic_ns() >= deadline_ns {
                log::error!("the jailer reads nothing of how the VM has ended");
                return;
            }
            let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut fds, LOOK_MS);
        }
    }

    /// Reads all messages: keeps the answers for the callers that asked, and returns the rest.
    pub(crate) fn listen(&self) -> Vec<LinkEvent> {
        let mut news = Vec::new();
        loop {
            match self.channel.receive_with() {
                Ok(Some((ToSupervisor::Signal(signal), _))) => news.push(LinkEvent::Signal(signal)),
                Ok(Some((ToSupervisor::Answer(number, answer), fd))) => {
                    // The caller has dropped this question.
                    if let Some(place) = self.answers.borrow_mut().get_mut(&number) {
                        *place = Some((answer, fd));
                    }
                }
                Err(ControlError::Receive(Errno::EAGAIN)) => return news,
                Ok(None) | Err(_) => {
                    news.push(LinkEvent::Gone);
                    return news;
                }
            }
        }
    }

    fn send(&self, message: &ToJailer) -> Result<(), AskError> {
        Ok(self.channel.send(message)?)
    }
}

impl AsFd for JailerLink {
    /// Readable when the jailer has sent something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::broker::{Reason, Status};
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    fn pair() -> (JailerLink, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (JailerLink::new(ours), theirs)
    }

    fn answer(number: u32, answer: Answer) -> ToSupervisor {
        ToSupervisor::Answer(number, answer)
    }

    #[test]
    fn outcome_is_told_though_the_jailer_has_not_read_what_was_said_before() {
        let (jailer, other) = pair();
        let mut said = 0;
        while jailer.send(&ToJailer::Started).is_ok() {
            said += 1;
        }
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            for _ in 0..said {
                assert_eq!(other.receive().unwrap(), Some(ToJailer::Started));
            }
            other.receive::<ToJailer>().unwrap()
        });
        jailer.tell_outcome(&Outcome::ok());
        assert_eq!(
            reader.join().unwrap(),
            Some(ToJailer::Ended(Status::Ok, Reason::PowerOff))
        );
    }

    #[test]
    fn answers_come_in_any_order_and_signals_between_them() {
        let (jailer, other) = pair();
        let first = jailer.ask(Question::ReopenDisk(7)).unwrap();
        let second = jailer.ask(Question::ConnectForeign(0)).unwrap();
        let asked = ToJailer::Ask(1, Question::ReopenDisk(7));
        assert_eq!(other.receive().unwrap(), Some(asked));
        let file = tempfile::tempfile().unwrap();
        let opened = answer(2, Answer::Opened);
        other.send_with(&opened, file.as_fd()).unwrap();
        other.send(&ToSupervisor::Signal(15)).unwrap();
        assert_eq!(jailer.listen(), [LinkEvent::Signal(15)]);
        assert!(first.reopened().is_none());
        assert!(second.connected().unwrap().is_ok());
        assert!(second.connected().is_none(), "it is told once");
        other.send(&answer(1, Answer::Refused(2))).unwrap();
        assert_eq!(jailer.listen(), []);
        let refused = first.reopened().unwrap();
        assert!(matches!(refused, Err(AskError::Refused(Errno::ENOENT))));
        drop(other);
        assert_eq!(jailer.listen(), [LinkEvent::Gone]);
        assert!(jailer.ask(Question::ConnectForeign(0)).is_err());
    }

    #[test]
    fn answer_to_a_question_that_was_forgotten_is_dropped_with_its_descriptor() {
        let (jailer, other) = pair();
        drop(jailer.ask(Question::ConnectForeign(0)).unwrap());
        let (kept, sent) = Channel::pair().unwrap();
        let opened = answer(1, Answer::Opened);
        other.send_with(&opened, sent.as_fd()).unwrap();
        drop(sent);
        assert_eq!(jailer.listen(), []);
        assert_eq!(kept.receive::<ToJailer>().unwrap(), None);
    }

    #[test]
    fn answer_without_a_descriptor_or_of_another_kind_is_none() {
        let (jailer, other) = pair();
        let first = jailer.ask(Question::ConnectForeign(7)).unwrap();
        let second = jailer.ask(Question::ReopenDisk(7)).unwrap();
        other.send(&answer(1, Answer::Opened)).unwrap();
        other.send(&answer(2, Answer::HostPid(1))).unwrap();
        assert_eq!(jailer.listen(), []);
        assert!(matches!(first.connected(), Some(Err(AskError::Silent))));
        assert!(matches!(second.reopened(), Some(Err(AskError::Silent))));
    }

    #[test]
    fn outcome_is_told_line_by_line() {
        let (jailer, other) = pair();
        jailer.tell_outcome(&Outcome::new(Status::Guest, ["a", "b"]));
        for line in ["a", "b"] {
            let told = other.receive().unwrap();
            assert_eq!(told, Some(ToJailer::Line(line.into())));
        }
        assert_eq!(
            other.receive().unwrap(),
            Some(ToJailer::Ended(Status::Guest, Reason::Crash))
        );
    }
}
