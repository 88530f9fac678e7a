// SPDX-License-Identifier: Apache-2.0
//! Questions that no honest supervisor asks.

#![allow(unsafe_code)] // nobody wraps pidfd_open

use super::*;
use std::fs;
use std::os::fd::FromRawFd;
use std::process::{Child, Command};

use spec::{DiskSpec, VmSpec};

use crate::supervisor::Log;

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
    let image = File::open(&path).unwrap();
    let log = Log {
        writer: fs::OpenOptions::new()
            .append(true)
            .open("/dev/null")
            .unwrap(),
        reader: File::open("/dev/null").unwrap(),
    };
    let passts = Passts::new(&vm, None, None, &log).unwrap();
    Answers::new(&vm, [&image].into_iter(), passts).unwrap()
}

/// Of this process as the supervisor, what is refused and why.
fn refused(question: Question, fd: Option<&OwnedFd>) -> Errno {
    answers().answer(Pid::this(), question, fd).unwrap_err()
}

fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: pidfd_open takes integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(Errno::result(fd).unwrap()).unwrap();
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn child() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn device_that_is_not_there_is_refused_and_the_image_that_is_can_only_be_read() {
    for index in [1, 2, u8::MAX] {
        assert_eq!(refused(Question::ReopenDisk(index), None), Errno::ENODEV);
    }
    for index in [0, 1, u8::MAX] {
        assert_eq!(
            refused(Question::ConnectForeign(index), None),
            Errno::ENODEV
        );
    }
    let opened = answers().answer(Pid::this(), Question::ReopenDisk(0), None);
    let (Answer::Opened, Some(image)) = opened.unwrap() else {
        panic!("it was not opened");
    };
    assert_eq!(nix::unistd::write(&image, b"x"), Err(Errno::EBADF));
}

#[test]
fn descriptor_that_is_missing_or_leads_to_no_process_is_refused() {
    let file = File::open("/dev/null").unwrap().into();
    let socket = Channel::pair().unwrap().0.into();
    for fd in [None, Some(&file), Some(&socket)] {
        assert_eq!(refused(Question::HostPid(1), fd), Errno::EBADF);
    }
}

#[test]
fn process_is_named_only_if_it_lives_and_is_the_supervisors_own() {
    let child = child();
    let (number, its) = (child.id().cast_signed(), pidfd(child.id()));
    let ask = |supervisor| answers().answer(supervisor, Question::HostPid(1), Some(&its));
    let (answer, fd) = ask(Pid::this()).unwrap();
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
