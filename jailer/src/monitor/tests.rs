// SPDX-License-Identifier: Apache-2.0
//! Questions that no honest supervisor asks.

use super::*;
use std::fs;
use std::process::{Child, Command};

use handover::host_resources::Log;
use spec::{DiskSpec, VmSpec};

/// Answers for a VM with one disk that can only be read, and no foreign device.
fn answers() -> Answers {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, [0; 512]).unwrap();
    let mut spec = VmSpec::new("/k");
    spec.disks = vec![DiskSpec {
        readonly: true,
        ..DiskSpec::new(&path)
    }];
    let vm = Vm::try_from(spec).unwrap();
    let image = Parked::empty().unwrap();
    image.park(fs::File::open(&path).unwrap().as_fd()).unwrap();
    let log = Log {
        writer: fs::OpenOptions::new()
            .append(true)
            .open("/dev/null")
            .unwrap(),
        reader: fs::File::open("/dev/null").unwrap(),
        old: fs::File::open("/dev/null").unwrap(),
    };
    let passts = Passts::new(&vm, None, None, &log).unwrap();
    Answers::new(&vm, [image], passts)
}

/// What is answered at once, if anything is.
type Answered = Result<Option<(Answer, Option<OwnedFd>)>, Errno>;

/// Asks as this supervisor.
fn ask(supervisor: Pid, question: Question, fd: Option<&OwnedFd>) -> Answered {
    let mut errands = Errands::default();
    answers().answer(&mut errands, supervisor, (1, question), fd)
}

/// Of this process as the supervisor, what is refused and why.
fn refused(question: Question, fd: Option<&OwnedFd>) -> Errno {
    ask(Pid::this(), question, fd).unwrap_err()
}

fn pidfd(pid: u32) -> OwnedFd {
    host::pidfd::open(Pid::from_raw(pid.cast_signed())).unwrap()
}

fn child() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn device_that_is_not_there_is_refused() {
    for index in [1, 2, u8::MAX] {
        assert_eq!(refused(Question::ReopenDisk(index), None), Errno::ENODEV);
        assert_eq!(refused(Question::SyncDisk(index), None), Errno::ENODEV);
    }
    for index in [0, 1, u8::MAX] {
        assert_eq!(
            refused(Question::ConnectForeign(index), None),
            Errno::ENODEV
        );
    }
    for mark in [0, 100, 201, (1 << 62) - 1, i64::MIN] {
        let question = Question::DiskReleased(0, mark);
        assert_eq!(refused(question, None), Errno::EINVAL, "{mark}");
    }
    let question = Question::DiskReleased(1, image::fresh_mark());
    assert_eq!(refused(question, None), Errno::ENODEV);
}

#[test]
fn image_is_opened_by_a_helper_and_can_only_be_read() {
    let (answers, mut errands) = (answers(), Errands::default());
    let asked = (7, Question::ReopenDisk(0));
    let answered = answers.answer(&mut errands, Pid::this(), asked, None);
    assert!(answered.unwrap().is_none(), "not by a helper");
    let (answer, image) = loop {
        let fds = errands.fds();
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::NONE).unwrap();
        if let Some(answer) = errands.take().pop() {
            break answer;
        }
    };
    let ToSupervisor::Answer(7, Answer::Reopened(_)) = answer else {
        panic!("it was not opened: {answer:?}");
    };
    assert_eq!(nix::unistd::write(image.unwrap(), b"x"), Err(Errno::EBADF));
}

#[test]
fn descriptor_that_is_missing_or_leads_to_no_process_is_refused() {
    let file = fs::File::open("/dev/null").unwrap().into();
    let socket = Channel::pair().unwrap().0.into();
    for fd in [None, Some(&file), Some(&socket)] {
        assert_eq!(refused(Question::HostPid(1), fd), Errno::EBADF);
    }
}

#[test]
fn process_is_named_only_if_it_lives_and_is_the_supervisors_own() {
    let child = child();
    let (number, its) = (child.id().cast_signed(), pidfd(child.id()));
    let ask = |supervisor| ask(supervisor, Question::HostPid(1), Some(&its));
    let (answer, fd) = ask(Pid::this()).unwrap().unwrap();
    assert_eq!(answer, Answer::HostPid(number));
    assert!(fd.is_none());
    assert_eq!(ask(Pid::parent()).unwrap_err(), Errno::EPERM);
    end(child);
    assert_eq!(ask(Pid::this()).unwrap_err(), Errno::ESRCH);

    for stranger in [
        1,
        std::process::id(),
        Pid::parent().as_raw().cast_unsigned(),
    ] {
        let its = pidfd(stranger);
        assert_eq!(refused(Question::HostPid(1), Some(&its)), Errno::EPERM);
    }
}

#[test]
fn last_words_are_heard_of_a_supervisor_that_has_left_answers_unread() {
    let (ours, its) = Channel::pair().unwrap();
    let late = ToSupervisor::Answer(1, Answer::Released);
    ours.send(&late).unwrap();
    for said in [
        ToJailer::Line("a".into()),
        ToJailer::Ended(Status::Guest, Reason::Panic),
    ] {
        its.send(&said).unwrap();
    }
    drop(its);
    let mut words = Words::default();
    words.hear_last(&ours);
    assert_eq!(
        (words.lines, words.status),
        (vec!["a".into()], Some((Status::Guest, Reason::Panic)))
    );
}
