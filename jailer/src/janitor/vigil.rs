// SPDX-License-Identifier: Apache-2.0
//! What the janitor does while the VM runs: it waits for the end of the supervisor, passes signals
//! on, and answers the three questions there are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use launch::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use spec::Vm;

use super::birth::Born;
use super::cgroups::{self, Cgroups};
use super::chores::{Chore, Chores, Unplaced};
use super::passt::Passts;
use crate::link::{Answer, LINES_MAX, Question, ToJanitor, ToSupervisor};
use crate::outcome::{Outcome, Status};
use crate::pidfd;
use crate::supervisor::connect;

/// So long nothing must have happened before a chore is done, which can take longer than a guest
/// should wait for a backend.
const PAUSE_MS: u8 = 50;

/// An image, and how it is opened again.
#[derive(Debug)]
struct Image {
    file: File,
    readonly: bool,
    direct: bool,
}

/// What questions are answered from.
#[derive(Debug)]
pub(crate) struct Answers {
    images: Vec<Image>,
    passts: Passts,
    sockets: Vec<PathBuf>,
}

/// The janitor of a VM that runs.
#[derive(Debug)]
pub(crate) struct Vigil {
    pub(crate) born: Born,
    pub(crate) channel: Channel,
    pub(crate) signals: SignalFd,
    pub(crate) answers: Answers,
    pub(crate) cgroups: Cgroups,
    /// What is put off until nothing else is to be done.
    pub(crate) chores: Chores,
    /// Who wants to know that the guest has started.
    pub(crate) notify: Option<UnixDatagram>,
}

/// What the supervisor said last.
#[derive(Debug, Default)]
struct Words {
    lines: Vec<String>,
    status: Option<Status>,
}

impl Answers {
    /// For a VM whose images are open; each descriptor is duplicated, and the opening shared.
    pub(crate) fn new<'a>(
        vm: &Vm,
        images: impl Iterator<Item = &'a File>,
        passts: Passts,
    ) -> io::Result<Self> {
        let images = vm.disks.iter().zip(images).map(|(disk, file)| {
            Ok(Image {
                file: file.try_clone()?,
                readonly: disk.readonly,
                direct: disk.direct,
            })
        });
        Ok(Self {
            images: images.collect::<io::Result<_>>()?,
            passts,
            sockets: vm.vhost_user.iter().map(|d| d.socket.clone()).collect(),
        })
    }

    /// The answer to a question of `supervisor`, which sent this descriptor with it.
    fn answer(
        &self,
        supervisor: Pid,
        question: Question,
        fd: Option<&OwnedFd>,
    ) -> Result<(Answer, Option<OwnedFd>), Errno> {
        let opened = |fd| (Answer::Opened, Some(fd));
        match question {
            Question::ReopenDisk(index) => {
                let image = self.images.get(usize::from(index));
                reopen(image.ok_or(Errno::ENODEV)?).map(opened)
            }
            Question::ConnectForeign(index) => self.connect(usize::from(index)).map(opened),
            Question::HostPid(_) => {
                let pid = host_pid(fd.ok_or(Errno::EBADF)?.as_fd())?;
                match parent_of(pid)? == supervisor {
                    true => Ok((Answer::HostPid(pid), None)),
                    // Anybody could have sent it that one, by a socket.
                    false => Err(Errno::EPERM),
                }
            }
        }
    }
}

impl Answers {
    /// Connects to the backend of a device of another program, and waits for none: passt's are the
    /// first, and are started anew.
    fn connect(&self, index: usize) -> Result<OwnedFd, Errno> {
        match index.checked_sub(self.passts.len()) {
            None => self.passts.start_again(index).map_err(|e| errno(&e)),
            Some(index) => connect(self.sockets.get(index).ok_or(Errno::ENODEV)?),
        }
    }
}

/// Opens an image once more, whatever has become of its path.
fn reopen(image: &Image) -> Result<OwnedFd, Errno> {
    let direct = if image.direct { libc::O_DIRECT } else { 0 };
    let opened = OpenOptions::new()
        .read(true)
        .write(!image.readonly)
        .custom_flags(libc::O_NONBLOCK | direct)
        .open(format!("/proc/self/fd/{}", image.file.as_raw_fd()));
    opened.map(OwnedFd::from).map_err(|e| errno(&e))
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The number of the process that a pidfd leads to; an error if it is no pidfd, or the process is
/// gone.
fn host_pid(pidfd: BorrowedFd<'_>) -> Result<i32, Errno> {
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(info).map_err(|_| Errno::EBADF)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid: i32 = number
        .and_then(|number| number.trim().parse().ok())
        .ok_or(Errno::EBADF)?;
    if pid > 0 { Ok(pid) } else { Err(Errno::ESRCH) }
}

/// The parent of a process.
fn parent_of(pid: i32) -> Result<Pid, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|_| Errno::ESRCH)?;
    let number = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let pid = number.and_then(|number| number.trim().parse().ok());
    pid.map(Pid::from_raw).ok_or(Errno::ESRCH)
}

impl Vigil {
    /// Waits for the end of the VM. When this returns, no process of it is left.
    pub(crate) fn keep(mut self) -> Outcome {
        let mut words = Words::default();
        loop {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.born.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
            ];
            let patience = match self.chores.are_left() {
                true => PAUSE_MS.into(),
                false => PollTimeout::NONE,
            };
            let [signalled, ended, spoken] = match poll(&mut fds, patience) {
                Ok(0) => {
                    self.do_a_chore();
                    continue;
                }
                Ok(_) => fds.each_ref().map(|fd| fd.any().unwrap_or(false)),
                Err(Errno::EINTR) => continue,
                Err(_) => return self.end(words),
            };
            if signalled {
                self.pass_signals_on();
            }
            let goes_on = !(spoken || ended) || self.listen(&mut words);
            if !goes_on || ended {
                return self.end(words);
            }
        }
    }

    fn pass_signals_on(&self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            // If it does not read any more it is ending, or its end is near.
            let _ = self.channel.send(&ToSupervisor::Signal(number));
        }
    }

    /// Hears what has been said; whether the supervisor may still say something.
    fn listen(&mut self, words: &mut Words) -> bool {
        for _ in 0..LINES_MAX {
            match self.channel.receive_with() {
                Ok(Some((ToJanitor::Ask(number, question), fd))) => {
                    self.answer(number, question, fd);
                }
                Ok(Some((ToJanitor::Started, _))) => {
                    self.chores.started();
                    if let Some(socket) = self.notify.take() {
                        // Nobody waits for it any more, or they have no room: not our trouble.
                        let _ = socket.send(b"READY=1");
                    }
                }
                Ok(Some((ToJanitor::Line(line), _))) => {
                    if words.lines.len() < LINES_MAX {
                        words.lines.push(line);
                    }
                }
                Ok(Some((ToJanitor::Ended(status), _))) => {
                    words.status = Some(status);
                    return false;
                }
                Err(ControlError::Receive(Errno::EAGAIN)) => return true,
                // It hung up, or says what no supervisor says.
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    fn answer(&mut self, number: u32, question: Question, fd: Option<OwnedFd>) {
        let (answer, opened) = match self.answers.answer(self.born.pid, question, fd.as_ref()) {
            Ok(answered) => answered,
            Err(errno) => (Answer::Refused(errno as i32), None),
        };
        let message = ToSupervisor::Answer(number, answer);
        let told = match opened {
            Some(opened) => self.channel.send_with(&message, opened.as_fd()),
            None => self.channel.send(&message),
        };
        // One that asks and does not read waits in vain, which is its own affair.
        drop(told);
        if let (Question::HostPid(user), Answer::HostPid(pid), Some(pidfd)) = (question, answer, fd)
            && self.cgroups.has(user)
        {
            self.chores.place(Unplaced { user, pid, pidfd });
        }
    }

    /// Nothing else is to be done.
    fn do_a_chore(&mut self) {
        match self.chores.next() {
            Some(Chore::Place(process)) => self.place(&process),
            Some(Chore::Settle) => {
                cgroups::sweep_forgotten();
                launch::image::let_go();
            }
            None => {}
        }
    }

    /// Puts a process into its control groups, if it lives.
    fn place(&self, Unplaced { user, pid, pidfd }: &Unplaced) {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let lives = poll(&mut fds, PollTimeout::ZERO) == Ok(0);
        if lives && let Err(error) = self.cgroups.place(*user, *pid) {
            let error = launch::log::chain(&error);
            log::warn!("cgroup: process {pid} stays in its parent's group: {error}");
        }
    }

    /// The supervisor has ended, or is ended now; with it goes everything in its pid namespace.
    fn end(&self, words: Words) -> Outcome {
        // If it has said its last there is nothing left for it to do.
        pidfd::kill(self.born.pidfd.as_fd());
        let death = loop {
            match waitid(Id::PIDFd(self.born.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Err(Errno::EINTR) => {}
                death => break death,
            }
        };
        if let Some(status) = words.status {
            return Outcome::new(status, words.lines);
        }
        let how = match death {
            Ok(WaitStatus::Exited(_, status)) => format!("exited with status {status}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
            _ => "is gone".into(),
        };
        let line = format!("the supervisor {how}, and the VM with it");
        Outcome::new(Status::Error, words.lines.into_iter().chain([line]))
    }
}

#[cfg(test)]
mod tests;
