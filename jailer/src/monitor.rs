// SPDX-License-Identifier: Apache-2.0
//! The jailer's loop while the VM runs: it waits for the supervisor to end, forwards signals, and
//! answers the supervisor's few questions. It never waits for storage: a helper answers a question
//! that could.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use handover::outcome::Outcome;
use handover::parked::Parked;
use host::clock::monotonic_ns;
use host::disk::Access;
use host::pidfd;
use host::socket::connect;
use ipc::broker::{Answer, LINES_MAX, Question, Reason, Status, ToJailer, ToSupervisor};
use ipc::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use spec::Vm;

use super::cgroups::Cgroups;
use super::deferred::{Deferred, Task, Unplaced};
use super::errands::Errands;
use super::image;
use super::passt::Passts;
use super::rate_limit::RateLimit;
use super::spawn::Spawned;

mod pids;

use pids::{host_pid, parent_of};

/// The jailer must have been idle for so long before it does a deferred task, which can take longer
/// than a guest should wait for a backend.
const PAUSE_MS: u8 = 50;

/// More messages than fit into the socket.
const LAST_MAX: u32 = 4096;

/// An image, and how to open it again.
#[derive(Debug)]
struct Image {
    /// The opening that keeps the image locked for the VM's whole life.
    witness: Parked,
    access: Access,
}

/// What the jailer answers questions from.
#[derive(Debug)]
pub(crate) struct Answers {
    images: Vec<Image>,
    passts: Passts,
    sockets: Vec<PathBuf>,
}

/// The jailer of a running VM.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) spawned: Spawned,
    pub(crate) channel: Channel,
    pub(crate) signals: SignalFd,
    pub(crate) answers: Answers,
    pub(crate) cgroups: Cgroups,
    /// Tasks that wait until the jailer is idle.
    pub(crate) deferred: Deferred,
    /// The helpers.
    pub(super) errands: Errands,
    /// How many messages the supervisor may still send.
    pub(super) rate_limit: RateLimit,
    /// The service manager's socket, told once that the guest has started.
    pub(crate) notify: Option<UnixDatagram>,
}

/// What the supervisor said about the VM's end.
#[derive(Debug, Default)]
struct Words {
    lines: Vec<String>,
    status: Option<(Status, Reason)>,
}

impl Words {
    /// Reads what is left from a supervisor that has hung up or ended. Its questions need no answer
    /// any more.
    fn hear_last(&mut self, channel: &Channel) {
        for _ in 0..LAST_MAX {
            match channel.receive() {
                Ok(Some(ToJailer::Line(line))) if self.lines.len() < LINES_MAX => {
                    self.lines.push(line);
                }
                Ok(Some(ToJailer::Ended(status, reason))) => {
                    return self.status = Some((status, reason));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

impl Answers {
    /// For a VM whose images are open.
    pub(crate) fn new(vm: &Vm, images: impl IntoIterator<Item = Parked>, passts: Passts) -> Self {
        let images = vm.disks.iter().zip(images).map(|(disk, witness)| Image {
            witness,
            access: Access {
                readonly: disk.readonly,
                direct: disk.direct,
                block_bytes: disk.block_size,
            },
        });
        Self {
            images: images.collect(),
            passts,
            sockets: vm.vhost_user.iter().map(|d| d.socket.clone()).collect(),
        }
    }

    fn image(&self, index: u8) -> Result<&Image, Errno> {
        self.images.get(usize::from(index)).ok_or(Errno::ENODEV)
    }

    /// Answers a question of `supervisor`, which sent `fd` with it. `None` if a helper answers,
    /// because the answer may wait for storage.
    fn answer(
        &self,
        errands: &mut Errands,
        supervisor: Pid,
        (number, question): (u32, Question),
        fd: Option<&OwnedFd>,
    ) -> Result<Option<(Answer, Option<OwnedFd>)>, Errno> {
        match question {
            Question::ReopenDisk(index) => {
                let Image { witness, access } = self.image(index)?;
                let mark = image::fresh_mark();
                errands.answer(number, question, &witness.ends(), || {
                    image::answer_reopen(witness, *access, mark)
                })?;
            }
            Question::DiskReleased(index, mark) => {
                let Image { witness, .. } = self.image(index)?;
                if !image::is_mark(mark) {
                    return Err(Errno::EINVAL);
                }
                errands.answer(number, question, &witness.ends(), || {
                    image::await_release(witness, mark)
                })?;
            }
            Question::SyncDisk(index) => {
                let Image { witness, .. } = self.image(index)?;
                errands.answer(number, question, &witness.ends(), || {
                    image::answer_sync(witness)
                })?;
            }
            Question::ConnectForeign(index) => {
                let index = usize::from(index);
                let Some(index) = index.checked_sub(self.passts.len()) else {
                    // No helper: passt must be the jailer's own child. Its program is not on a disk
                    // image.
                    let stream = self.passts.start_again(index);
                    let stream = stream.map_err(|e| image::of(&e))?;
                    return Ok(Some((Answer::Opened, Some(stream))));
                };
                let path = self.sockets.get(index).ok_or(Errno::ENODEV)?;
                errands.answer(number, question, &[], || {
                    connect(path).map(|stream| (Answer::Opened, Some(stream)))
                })?;
            }
            Question::HostPid(_) => {
                let pid = host_pid(fd.ok_or(Errno::EBADF)?.as_fd())?;
                if parent_of(pid)? != supervisor {
                    // Another process could have sent the supervisor this pidfd over a socket.
                    return Err(Errno::EPERM);
                }
                return Ok(Some((Answer::HostPid(pid), None)));
            }
            // The monitor knows it.
            Question::OomKills => return Err(Errno::ENOSYS),
        }
        Ok(None)
    }
}

impl Monitor {
    /// Waits for the VM to end. When this returns, no process of the VM is left.
    pub(crate) fn keep(mut self) -> Outcome {
        let mut words = Words::default();
        loop {
            let patience = match self.deferred.are_left() {
                true => PAUSE_MS.into(),
                false => PollTimeout::NONE,
            };
            let (signalled, ended, spoken) = match self.wait(patience) {
                Ok(None) => {
                    self.run_deferred_task();
                    continue;
                }
                Ok(Some(ready)) => ready,
                Err(Errno::EINTR) => continue,
                Err(_) => return self.end(words),
            };
            if signalled {
                self.pass_signals_on();
            }
            for (answer, fd) in self.errands.take() {
                self.tell(&answer, fd.as_ref());
            }
            if ended {
                words.hear_last(&self.channel);
            }
            let goes_on = !spoken || self.listen(&mut words);
            if !goes_on || ended {
                return self.end(words);
            }
        }
    }

    /// Waits until something happens: a signal is pending, the supervisor has ended, or it has sent
    /// something that may be read now. `None` if nothing happens within `patience`.
    fn wait(&mut self, patience: PollTimeout) -> nix::Result<Option<(bool, bool, bool)>> {
        let wait_ns = self.rate_limit.wait_ns(monotonic_ns());
        let (heard, patience) = match wait_ns {
            None => (PollFlags::POLLIN, patience),
            Some(ns) => {
                let ms = PollTimeout::try_from(ns.div_ceil(1_000_000));
                (PollFlags::empty(), ms.unwrap_or(PollTimeout::ZERO))
            }
        };
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.spawned.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.channel.as_fd(), heard),
        ];
        let helpers = self.errands.fds();
        fds.extend(helpers.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let count = poll(&mut fds, patience)?;
        let is_ready = |index: usize| fds[index].any().unwrap_or(false);
        let happened = count > 0 || wait_ns.is_some();
        Ok(happened.then(|| (is_ready(0), is_ready(1), is_ready(2))))
    }

    fn pass_signals_on(&self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            // If this fails, the supervisor does not read any more: it is ending, or about to.
            let _ = self.channel.send(&ToSupervisor::Signal(number));
        }
    }

    /// Reads messages, as many as the supervisor may send; returns whether it may send more.
    fn listen(&mut self, words: &mut Words) -> bool {
        for _ in 0..LINES_MAX {
            if self.rate_limit.wait_ns(monotonic_ns()).is_some() {
                return true;
            }
            let said = self.channel.receive_with();
            self.rate_limit.take();
            match said {
                Ok(Some((ToJailer::Ask(number, question), fd))) => {
                    self.answer(number, question, fd);
                }
                Ok(Some((ToJailer::Started, _))) => {
                    self.deferred.started();
                    if let Some(socket) = self.notify.take() {
                        // The service manager has gone, or its socket is full: no fault of the VM.
                        let _ = socket.send(b"READY=1");
                    }
                }
                Ok(Some((ToJailer::Line(line), _))) => {
                    if words.lines.len() < LINES_MAX {
                        words.lines.push(line);
                    }
                }
                Ok(Some((ToJailer::Ended(status, reason), _))) => {
                    words.status = Some((status, reason));
                    return false;
                }
                Err(ControlError::Receive(Errno::EAGAIN)) => return true,
                Ok(None) => {
                    words.hear_last(&self.channel);
                    return false;
                }
                // No supervisor sends such a message: end the VM.
                Err(_) => return false,
            }
        }
        true
    }

    fn answer(&mut self, number: u32, question: Question, fd: Option<OwnedFd>) {
        let asked = (number, question);
        let supervisor = self.spawned.pid;
        let (answers, errands) = (&self.answers, &mut self.errands);
        let answered = match question {
            Question::OomKills => Ok(Some((Answer::OomKills(self.cgroups.oom_kills()), None))),
            _ => answers.answer(errands, supervisor, asked, fd.as_ref()),
        };
        let (answer, opened) = match answered {
            Ok(Some(answered)) => answered,
            Ok(None) => return,
            Err(errno) => (Answer::Refused(errno as i32), None),
        };
        if let (Question::HostPid(user), Answer::HostPid(pid), Some(pidfd)) =
            (question, &answer, fd)
            && self.cgroups.has(user)
        {
            let pid = *pid;
            self.deferred.place(Unplaced { user, pid, pidfd });
        }
        self.tell(&ToSupervisor::Answer(number, answer), opened.as_ref());
    }

    fn tell(&self, message: &ToSupervisor, fd: Option<&OwnedFd>) {
        let told = match fd {
            Some(fd) => self.channel.send_with(message, fd.as_fd()),
            None => self.channel.send(message),
        };
        // A supervisor that does not read its answers only harms its own VM.
        drop(told);
    }

    /// The jailer is idle: does one deferred task.
    fn run_deferred_task(&mut self) {
        let begun = match self.deferred.next() {
            Some(Task::Place(process)) => self.place(process),
            Some(Task::Settle) => {
                host::image::let_go();
                let Self {
                    errands, cgroups, ..
                } = self;
                errands.run(|| {
                    cgroups.sweep_forgotten_beside();
                    Ok(())
                })
            }
            None => Ok(()),
        };
        if let Err(errno) = begun {
            log::warn!("cgroup: no process removes it: {}", errno.desc());
        }
    }

    /// Moves a process into its control groups, if it is alive.
    fn place(&mut self, process: Unplaced) -> Result<(), Errno> {
        let Unplaced { user, pid, pidfd } = process;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let lives = poll(&mut fds, PollTimeout::ZERO) == Ok(0);
        if !lives {
            return Ok(());
        }
        let Self {
            errands, cgroups, ..
        } = self;
        errands.run(|| {
            cgroups.place(user, pid).map_err(|error| {
                let error = host::log::chain(&error);
                format!("cgroup: process {pid} stays in its parent's group: {error}")
            })
        })
    }

    /// The supervisor has ended, or is killed here, and every process in its pid namespace with it.
    fn end(self, words: Words) -> Outcome {
        // After its last message a supervisor has nothing left to do.
        pidfd::kill(self.spawned.pidfd.as_fd());
        let death = loop {
            match waitid(Id::PIDFd(self.spawned.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Err(Errno::EINTR) => {}
                death => break death,
            }
        };
        self.errands.end();
        // The supervisor only saw a process killed.
        let limited = |outcome: Outcome| match outcome.reason {
            Reason::HostError if self.cgroups.ran_out_of_memory() => outcome.because(Reason::Limit),
            Reason::HostError => outcome.with_oom_kills(self.cgroups.oom_kills()),
            _ => outcome,
        };
        if let Some((status, reason)) = words.status {
            return limited(Outcome::new(status, words.lines).because(reason));
        }
        let how = match death {
            Ok(WaitStatus::Exited(_, status)) => format!("exited with status {status}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
            _ => "is gone".into(),
        };
        let line = format!("the supervisor {how}, and the VM with it");
        let lines = words.lines.into_iter().chain([line]);
        limited(Outcome::new(Status::Error, lines))
    }
}

#[cfg(test)]
mod tests;
